"""Field numbers of the messages that `protobuf` reads, from the generated.proto files of k8s.io/api 1.36.

One line per message: `number name kind` of each field, `*` for repeated ones, `map` and `rawmap` for maps.
"""

from collections.abc import Mapping

import msgspec


class Field(msgspec.Struct, frozen=True):
    """A field of a message; ``kind`` is a scalar or another message. ``raw``: a map of bytes."""

    name: str
    kind: str
    repeated: bool = False
    raw: bool = False


_TABLE: Mapping[str, str] = {
    "ObjectMeta": (
        "1 name string, 2 generateName string, 3 namespace string, 4 selfLink string, 5 uid string, "
        "6 resourceVersion string, 7 generation int, 8 creationTimestamp Time, 9 deletionTimestamp Time, "
        "11 labels map, 12 annotations map, 14 finalizers *string"
    ),
    "SelfSubjectReview": "1 metadata ObjectMeta, 2 status SelfSubjectReviewStatus",
    "SelfSubjectReviewStatus": "1 userInfo UserInfo",
    "UserInfo": "1 username string, 2 uid string",
    "SelfSubjectAccessReview": (
        "1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec, 3 status SubjectAccessReviewStatus"
    ),
    "SelfSubjectAccessReviewSpec": "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResource",
    "ResourceAttributes": (
        "1 namespace string, 2 verb string, 3 group string, 4 version string, 5 resource string, "
        "6 subresource string, 7 name string"
    ),
    "NonResource": "1 path string, 2 verb string",
    "SubjectAccessReviewStatus": "1 allowed bool, 2 reason string, 3 evaluationError string, 4 denied bool",
    "SelfSubjectRulesReview": (
        "1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec, 3 status SubjectRulesReviewStatus"
    ),
    "SelfSubjectRulesReviewSpec": "1 namespace string",
    "SubjectRulesReviewStatus": "3 incomplete bool, 4 evaluationError string",
    "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status NamespaceStatus",
    "NamespaceSpec": "1 finalizers *string",
    "NamespaceStatus": "1 phase string",
    "ConfigMap": "1 metadata ObjectMeta, 2 data map, 3 binaryData rawmap, 4 immutable bool",
    "Service": "1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status ServiceStatus",
    "ServiceStatus": "1 loadBalancer LoadBalancerStatus",
    "LoadBalancerStatus": "",
    "ServiceSpec": (
        "1 ports *ServicePort, 2 selector map, 3 clusterIP string, 4 type string, 5 externalIPs *string, "
        "7 sessionAffinity string, 8 loadBalancerIP string, 9 loadBalancerSourceRanges *string, "
        "10 externalName string, 11 externalTrafficPolicy string, 12 healthCheckNodePort int, "
        "13 publishNotReadyAddresses bool, 14 sessionAffinityConfig SessionAffinityConfig, "
        "17 ipFamilyPolicy string, 18 clusterIPs *string, 19 ipFamilies *string, "
        "20 allocateLoadBalancerNodePorts bool, 21 loadBalancerClass string, 22 internalTrafficPolicy string, "
        "23 trafficDistribution string"
    ),
    "SessionAffinityConfig": "1 clientIP ClientIPConfig",
    "ClientIPConfig": "1 timeoutSeconds int",
    "ServicePort": (
        "1 name string, 2 protocol string, 3 port int, 4 targetPort IntOrString, 5 nodePort int, "
        "6 appProtocol string"
    ),
    "Deployment": "1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status DeploymentStatus",
    "DeploymentSpec": (
        "1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy DeploymentStrategy, "
        "5 minReadySeconds int, 6 revisionHistoryLimit int, 7 paused bool, 9 progressDeadlineSeconds int"
    ),
    "DeploymentStatus": "",
    "DeploymentStrategy": "1 type string, 2 rollingUpdate RollingUpdateDeployment",
    "RollingUpdateDeployment": "1 maxUnavailable IntOrString, 2 maxSurge IntOrString",
    "LabelSelector": "1 matchLabels map, 2 matchExpressions *LabelSelectorRequirement",
    "LabelSelectorRequirement": "1 key string, 2 operator string, 3 values *string",
    "PodTemplateSpec": "1 metadata ObjectMeta, 2 spec PodSpec",
    "PodSpec": (
        "2 containers *Container, 3 restartPolicy string, 4 terminationGracePeriodSeconds int, "
        "6 dnsPolicy string, 7 nodeSelector map, "
        "8 serviceAccountName string, 9 serviceAccount string, 10 nodeName string, "
        "11 hostNetwork bool, 16 hostname string, 17 subdomain string, 19 schedulerName string, "
        "20 initContainers *Container, 24 priorityClassName string"
    ),
    "Container": (
        "1 name string, 2 image string, 3 command *string, 4 args *string, 5 workingDir string, "
        "6 ports *ContainerPort, 7 env *EnvVar, 8 resources ResourceRequirements, "
        "13 terminationMessagePath string, 14 imagePullPolicy string, "
        "16 stdin bool, 17 stdinOnce bool, 18 tty bool, "
        "20 terminationMessagePolicy string"
    ),
    "ResourceRequirements": "",
    "EnvVar": "1 name string, 2 value string",
    "ContainerPort": "1 name string, 2 hostPort int, 3 containerPort int, 4 protocol string, 5 hostIP string",
    "DeleteOptions": (
        "1 gracePeriodSeconds int, 2 preconditions Preconditions, 3 orphanDependents bool, "
        "4 propagationPolicy string, 5 dryRun *string"
    ),
    "Preconditions": "1 uid string, 2 resourceVersion string",
}

POINTERS = frozenset(
    {
        ("DeploymentSpec", "replicas"),
        ("DeploymentSpec", "revisionHistoryLimit"),
        ("DeploymentSpec", "progressDeadlineSeconds"),
        ("DeploymentSpec", "selector"),
        ("PodSpec", "terminationGracePeriodSeconds"),
        ("ServiceSpec", "allocateLoadBalancerNodePorts"),
        ("ConfigMap", "immutable"),
        ("ClientIPConfig", "timeoutSeconds"),
        ("DeleteOptions", "gracePeriodSeconds"),
        ("DeleteOptions", "orphanDependents"),
        ("RollingUpdateDeployment", "maxUnavailable"),
        ("RollingUpdateDeployment", "maxSurge"),
    }
)
"""Fields whose zero means zero; elsewhere Go cannot tell it from unset, and neither can we."""


def _parse(text: str) -> dict[int, Field]:
    found = {}
    for entry in filter(None, text.split(", ")):
        number, name, kind = entry.split(" ")
        found[int(number)] = Field(
            name,
            "map" if kind == "rawmap" else kind.removeprefix("*"),
            repeated=kind.startswith("*"),
            raw=kind == "rawmap",
        )
    return found


MESSAGES: Mapping[str, Mapping[int, Field]] = {name: _parse(text) for name, text in _TABLE.items()}
