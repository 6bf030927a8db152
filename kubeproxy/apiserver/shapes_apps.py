"""The shapes of the apps kinds and of autoscaling's Scale."""

from kubeproxy.apiserver.schema import BOOL, INT32, INT64, INT_OR_STRING, STRING, TIME, Shape
from kubeproxy.apiserver.shapes_meta import LABEL_SELECTOR, condition, top
from kubeproxy.apiserver.shapes_pod import POD_TEMPLATE

_STRATEGY = Shape(
    "DeploymentStrategy",
    {
        "type": STRING,
        "rollingUpdate": Shape(
            "RollingUpdateDeployment", {"maxUnavailable": INT_OR_STRING, "maxSurge": INT_OR_STRING}
        ),
    },
    retain_keys=True,
)
DEPLOYMENT = top(
    "Deployment",
    {
        "spec": Shape(
            "DeploymentSpec",
            {
                "replicas": INT32,
                "selector": LABEL_SELECTOR,
                "template": POD_TEMPLATE,
                "strategy": _STRATEGY,
                "minReadySeconds": INT32,
                "revisionHistoryLimit": INT32,
                "paused": BOOL,
                "progressDeadlineSeconds": INT32,
            },
        ),
        "status": Shape(
            "DeploymentStatus",
            {
                "observedGeneration": INT64,
                "replicas": INT32,
                "updatedReplicas": INT32,
                "readyReplicas": INT32,
                "availableReplicas": INT32,
                "unavailableReplicas": INT32,
                "terminatingReplicas": INT32,
                "conditions": condition("DeploymentCondition", lastUpdateTime=TIME),
                "collisionCount": INT32,
            },
        ),
    },
)
REPLICA_SET = top(
    "ReplicaSet",
    {
        "spec": Shape(
            "ReplicaSetSpec",
            {
                "replicas": INT32,
                "minReadySeconds": INT32,
                "selector": LABEL_SELECTOR,
                "template": POD_TEMPLATE,
            },
        ),
        "status": Shape(
            "ReplicaSetStatus",
            {
                "replicas": INT32,
                "fullyLabeledReplicas": INT32,
                "readyReplicas": INT32,
                "availableReplicas": INT32,
                "terminatingReplicas": INT32,
                "observedGeneration": INT64,
                "conditions": condition("ReplicaSetCondition"),
            },
        ),
    },
)
SCALE = top(
    "Scale",
    {
        "spec": Shape("ScaleSpec", {"replicas": INT32}),
        "status": Shape("ScaleStatus", {"replicas": INT32, "selector": STRING}),
    },
)
