"""The shape of a Pod, which Deployments and ReplicaSets carry as their template.

Fields that only a container runtime reads are declared as free-form: they are stored and given back, no more.
"""

from kubeproxy.apiserver.schema import (
    ANY,
    BOOL,
    INT32,
    INT64,
    INT_OR_STRING,
    QUANTITY,
    STRING,
    TIME,
    ListOf,
    MapOf,
    Shape,
    Type,
)
from kubeproxy.apiserver.shapes_meta import LABEL_SELECTOR, OBJECT_META, STRING_MAP, STRINGS, condition, top

_LOCAL_REFERENCE = Shape("LocalObjectReference", {"name": STRING})
_HTTP_GET = Shape(
    "HTTPGetAction",
    {
        "path": STRING,
        "port": INT_OR_STRING,
        "host": STRING,
        "scheme": STRING,
        "httpHeaders": ListOf(Shape("HTTPHeader", {"name": STRING, "value": STRING})),
    },
)
_HANDLER: dict[str, Type] = {
    "exec": Shape("ExecAction", {"command": STRINGS}),
    "httpGet": _HTTP_GET,
    "tcpSocket": Shape("TCPSocketAction", {"port": INT_OR_STRING, "host": STRING}),
    "sleep": Shape("SleepAction", {"seconds": INT64}),
}
PROBE = Shape(
    "Probe",
    {
        **_HANDLER,
        "grpc": Shape("GRPCAction", {"port": INT32, "service": STRING}),
        "initialDelaySeconds": INT32,
        "timeoutSeconds": INT32,
        "periodSeconds": INT32,
        "successThreshold": INT32,
        "failureThreshold": INT32,
        "terminationGracePeriodSeconds": INT64,
    },
)
_LIFECYCLE = Shape(
    "Lifecycle",
    {
        "postStart": Shape("LifecycleHandler", _HANDLER),
        "preStop": Shape("LifecycleHandler", _HANDLER),
        "stopSignal": STRING,
    },
)
_KEY = {"name": STRING, "key": STRING, "optional": BOOL}
ENV_VAR = Shape(
    "EnvVar",
    {
        "name": STRING,
        "value": STRING,
        "valueFrom": Shape(
            "EnvVarSource",
            {
                "fieldRef": Shape("ObjectFieldSelector", {"apiVersion": STRING, "fieldPath": STRING}),
                "resourceFieldRef": Shape(
                    "ResourceFieldSelector", {"containerName": STRING, "resource": STRING, "divisor": QUANTITY}
                ),
                "configMapKeyRef": Shape("ConfigMapKeySelector", _KEY),
                "secretKeyRef": Shape("SecretKeySelector", _KEY),
                "fileKeyRef": ANY,
            },
        ),
    },
)
CONTAINER_PORT = Shape(
    "ContainerPort",
    {"name": STRING, "hostPort": INT32, "containerPort": INT32, "protocol": STRING, "hostIP": STRING},
)
_RESOURCES = Shape(
    "ResourceRequirements", {"limits": MapOf(QUANTITY), "requests": MapOf(QUANTITY), "claims": ListOf(ANY)}
)
_CONTAINER: dict[str, Type] = {
    "name": STRING,
    "image": STRING,
    "command": STRINGS,
    "args": STRINGS,
    "workingDir": STRING,
    "ports": ListOf(CONTAINER_PORT, merge_key="containerPort"),
    "envFrom": ListOf(
        Shape(
            "EnvFromSource",
            {
                "prefix": STRING,
                "configMapRef": Shape("ConfigMapEnvSource", {"name": STRING, "optional": BOOL}),
                "secretRef": Shape("SecretEnvSource", {"name": STRING, "optional": BOOL}),
            },
        )
    ),
    "env": ListOf(ENV_VAR, merge_key="name"),
    "resources": _RESOURCES,
    "resizePolicy": ListOf(ANY),
    "restartPolicy": STRING,
    "restartPolicyRules": ListOf(ANY),
    "volumeMounts": ListOf(
        Shape(
            "VolumeMount",
            {
                "name": STRING,
                "readOnly": BOOL,
                "recursiveReadOnly": STRING,
                "mountPath": STRING,
                "subPath": STRING,
                "mountPropagation": STRING,
                "subPathExpr": STRING,
            },
        ),
        merge_key="mountPath",
    ),
    "volumeDevices": ListOf(Shape("VolumeDevice", {"name": STRING, "devicePath": STRING}), merge_key="devicePath"),
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "startupProbe": PROBE,
    "lifecycle": _LIFECYCLE,
    "terminationMessagePath": STRING,
    "terminationMessagePolicy": STRING,
    "imagePullPolicy": STRING,
    "securityContext": MapOf(ANY),
    "stdin": BOOL,
    "stdinOnce": BOOL,
    "tty": BOOL,
}
CONTAINER = Shape("Container", _CONTAINER)
_VOLUME_SOURCES = (
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
)
_VOLUME = Shape("Volume", {"name": STRING, **{source: MapOf(ANY) for source in _VOLUME_SOURCES}})

POD_SPEC = Shape(
    "PodSpec",
    {
        "volumes": ListOf(_VOLUME, merge_key="name", retain_keys=True),
        "initContainers": ListOf(CONTAINER, merge_key="name"),
        "containers": ListOf(CONTAINER, merge_key="name"),
        "ephemeralContainers": ListOf(
            Shape("EphemeralContainer", {**_CONTAINER, "targetContainerName": STRING}), merge_key="name"
        ),
        "restartPolicy": STRING,
        "terminationGracePeriodSeconds": INT64,
        "activeDeadlineSeconds": INT64,
        "dnsPolicy": STRING,
        "nodeSelector": STRING_MAP,
        "serviceAccountName": STRING,
        "serviceAccount": STRING,
        "automountServiceAccountToken": BOOL,
        "nodeName": STRING,
        "hostNetwork": BOOL,
        "hostPID": BOOL,
        "hostIPC": BOOL,
        "shareProcessNamespace": BOOL,
        "securityContext": MapOf(ANY),
        "imagePullSecrets": ListOf(_LOCAL_REFERENCE, merge_key="name"),
        "hostname": STRING,
        "hostnameOverride": STRING,
        "subdomain": STRING,
        "affinity": MapOf(ANY),
        "schedulerName": STRING,
        "tolerations": ListOf(
            Shape(
                "Toleration",
                {
                    "key": STRING,
                    "operator": STRING,
                    "value": STRING,
                    "effect": STRING,
                    "tolerationSeconds": INT64,
                },
            )
        ),
        "hostAliases": ListOf(Shape("HostAlias", {"ip": STRING, "hostnames": STRINGS}), merge_key="ip"),
        "priorityClassName": STRING,
        "priority": INT32,
        "dnsConfig": Shape(
            "PodDNSConfig",
            {
                "nameservers": STRINGS,
                "searches": STRINGS,
                "options": ListOf(Shape("PodDNSConfigOption", {"name": STRING, "value": STRING})),
            },
        ),
        "readinessGates": ListOf(Shape("PodReadinessGate", {"conditionType": STRING})),
        "runtimeClassName": STRING,
        "enableServiceLinks": BOOL,
        "preemptionPolicy": STRING,
        "overhead": MapOf(QUANTITY),
        "topologySpreadConstraints": ListOf(
            Shape(
                "TopologySpreadConstraint",
                {
                    "maxSkew": INT32,
                    "topologyKey": STRING,
                    "whenUnsatisfiable": STRING,
                    "labelSelector": LABEL_SELECTOR,
                    "minDomains": INT32,
                    "nodeAffinityPolicy": STRING,
                    "nodeTaintsPolicy": STRING,
                    "matchLabelKeys": STRINGS,
                },
            ),
            merge_key="topologyKey",
        ),
        "setHostnameAsFQDN": BOOL,
        "os": Shape("PodOS", {"name": STRING}),
        "hostUsers": BOOL,
        "schedulingGates": ListOf(Shape("PodSchedulingGate", {"name": STRING}), merge_key="name"),
        "resourceClaims": ListOf(ANY),
        "resources": _RESOURCES,
    },
)

_CONTAINER_STATUS = ListOf(
    Shape(
        "ContainerStatus",
        {
            "name": STRING,
            "state": MapOf(ANY),
            "lastState": MapOf(ANY),
            "ready": BOOL,
            "restartCount": INT32,
            "image": STRING,
            "imageID": STRING,
            "containerID": STRING,
            "started": BOOL,
            "allocatedResources": MapOf(QUANTITY),
            "resources": _RESOURCES,
            "volumeMounts": ListOf(ANY),
            "user": ANY,
            "allocatedResourcesStatus": ListOf(ANY),
            "stopSignal": STRING,
        },
    )
)
_POD_STATUS = Shape(
    "PodStatus",
    {
        "observedGeneration": INT64,
        "phase": STRING,
        "conditions": condition("PodCondition", lastProbeTime=TIME, observedGeneration=INT64),
        "message": STRING,
        "reason": STRING,
        "nominatedNodeName": STRING,
        "hostIP": STRING,
        "hostIPs": ListOf(Shape("HostIP", {"ip": STRING}), merge_key="ip"),
        "podIP": STRING,
        "podIPs": ListOf(Shape("PodIP", {"ip": STRING}), merge_key="ip"),
        "startTime": TIME,
        "initContainerStatuses": _CONTAINER_STATUS,
        "containerStatuses": _CONTAINER_STATUS,
        "ephemeralContainerStatuses": _CONTAINER_STATUS,
        "qosClass": STRING,
        "resize": STRING,
        "resourceClaimStatuses": ListOf(ANY),
    },
)

POD = top("Pod", {"spec": POD_SPEC, "status": _POD_STATUS})
POD_TEMPLATE = Shape("PodTemplateSpec", {"metadata": OBJECT_META, "spec": POD_SPEC})
