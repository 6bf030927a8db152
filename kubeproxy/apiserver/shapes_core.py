"""The shapes of the core, discovery, coordination and networking kinds (Pods apart)."""

from kubeproxy.apiserver.schema import (
    ANY,
    BOOL,
    INT32,
    INT_OR_STRING,
    QUANTITY,
    STRING,
    TIME,
    ListOf,
    MapOf,
    Shape,
)
from kubeproxy.apiserver.shapes_meta import CONDITIONS, OBJECT_REFERENCE, STRING_MAP, STRINGS, condition, top

NAMESPACE = top(
    "Namespace",
    {
        "spec": Shape("NamespaceSpec", {"finalizers": STRINGS}),
        "status": Shape("NamespaceStatus", {"phase": STRING, "conditions": condition("NamespaceCondition")}),
    },
)

_TAINT = Shape("Taint", {"key": STRING, "value": STRING, "effect": STRING, "timeAdded": TIME})
_NODE_STATUS = Shape(
    "NodeStatus",
    {
        "capacity": MapOf(QUANTITY),
        "allocatable": MapOf(QUANTITY),
        "phase": STRING,
        "conditions": condition("NodeCondition", lastHeartbeatTime=TIME),
        "addresses": ListOf(Shape("NodeAddress", {"type": STRING, "address": STRING}), merge_key="type"),
        "daemonEndpoints": MapOf(ANY),
        "nodeInfo": MapOf(ANY),
        "images": ListOf(ANY),
        "volumesInUse": STRINGS,
        "volumesAttached": ListOf(ANY),
        "config": ANY,
        "runtimeHandlers": ListOf(ANY),
        "features": ANY,
        "declaredFeatures": STRINGS,
    },
)
NODE = top(
    "Node",
    {
        "spec": Shape(
            "NodeSpec",
            {
                "podCIDR": STRING,
                "podCIDRs": ListOf(STRING, merge=True),
                "providerID": STRING,
                "unschedulable": BOOL,
                "taints": ListOf(_TAINT),
                "configSource": ANY,
                "externalID": STRING,
            },
        ),
        "status": _NODE_STATUS,
    },
)

SERVICE_PORT = Shape(
    "ServicePort",
    {
        "name": STRING,
        "protocol": STRING,
        "appProtocol": STRING,
        "port": INT32,
        "targetPort": INT_OR_STRING,
        "nodePort": INT32,
    },
)
_SERVICE_SPEC = Shape(
    "ServiceSpec",
    {
        "ports": ListOf(SERVICE_PORT, merge_key="port"),
        "selector": STRING_MAP,
        "clusterIP": STRING,
        "clusterIPs": STRINGS,
        "type": STRING,
        "externalIPs": STRINGS,
        "sessionAffinity": STRING,
        "loadBalancerIP": STRING,
        "loadBalancerSourceRanges": STRINGS,
        "externalName": STRING,
        "externalTrafficPolicy": STRING,
        "healthCheckNodePort": INT32,
        "publishNotReadyAddresses": BOOL,
        "sessionAffinityConfig": Shape(
            "SessionAffinityConfig", {"clientIP": Shape("ClientIPConfig", {"timeoutSeconds": INT32})}
        ),
        "ipFamilies": STRINGS,
        "ipFamilyPolicy": STRING,
        "allocateLoadBalancerNodePorts": BOOL,
        "loadBalancerClass": STRING,
        "internalTrafficPolicy": STRING,
        "trafficDistribution": STRING,
    },
)
_PORT_STATUS = Shape("PortStatus", {"port": INT32, "protocol": STRING, "error": STRING})
_INGRESS = Shape(
    "LoadBalancerIngress",
    {"ip": STRING, "hostname": STRING, "ipMode": STRING, "ports": ListOf(_PORT_STATUS)},
)
SERVICE = top(
    "Service",
    {
        "spec": _SERVICE_SPEC,
        "status": Shape(
            "ServiceStatus",
            {
                "loadBalancer": Shape("LoadBalancerStatus", {"ingress": ListOf(_INGRESS)}),
                "conditions": CONDITIONS,
            },
        ),
    },
)

_ENDPOINT_ADDRESS = ListOf(
    Shape(
        "EndpointAddress",
        {"ip": STRING, "hostname": STRING, "nodeName": STRING, "targetRef": OBJECT_REFERENCE},
    )
)
_ENDPOINT_PORT = ListOf(
    Shape("EndpointPort", {"name": STRING, "port": INT32, "protocol": STRING, "appProtocol": STRING})
)
ENDPOINTS = top(
    "Endpoints",
    {
        "subsets": ListOf(
            Shape(
                "EndpointSubset",
                {
                    "addresses": _ENDPOINT_ADDRESS,
                    "notReadyAddresses": _ENDPOINT_ADDRESS,
                    "ports": _ENDPOINT_PORT,
                },
            )
        )
    },
)
_ENDPOINT = Shape(
    "Endpoint",
    {
        "addresses": STRINGS,
        "conditions": Shape("EndpointConditions", {"ready": BOOL, "serving": BOOL, "terminating": BOOL}),
        "hostname": STRING,
        "targetRef": OBJECT_REFERENCE,
        "deprecatedTopology": STRING_MAP,
        "nodeName": STRING,
        "zone": STRING,
        "hints": Shape(
            "EndpointHints",
            {
                "forZones": ListOf(Shape("ForZone", {"name": STRING})),
                "forNodes": ListOf(Shape("ForNode", {"name": STRING})),
            },
        ),
    },
)
ENDPOINT_SLICE = top(
    "EndpointSlice",
    {"addressType": STRING, "endpoints": ListOf(_ENDPOINT), "ports": _ENDPOINT_PORT},
)

CONFIG_MAP = top("ConfigMap", {"immutable": BOOL, "data": STRING_MAP, "binaryData": STRING_MAP})

EVENT = top(
    "Event",
    {
        "involvedObject": OBJECT_REFERENCE,
        "reason": STRING,
        "message": STRING,
        "source": Shape("EventSource", {"component": STRING, "host": STRING}),
        "firstTimestamp": TIME,
        "lastTimestamp": TIME,
        "count": INT32,
        "type": STRING,
        "eventTime": TIME,
        "series": Shape("EventSeries", {"count": INT32, "lastObservedTime": TIME}),
        "action": STRING,
        "related": OBJECT_REFERENCE,
        "reportingComponent": STRING,
        "reportingInstance": STRING,
    },
)

LEASE = top(
    "Lease",
    {
        "spec": Shape(
            "LeaseSpec",
            {
                "holderIdentity": STRING,
                "leaseDurationSeconds": INT32,
                "acquireTime": TIME,
                "renewTime": TIME,
                "leaseTransitions": INT32,
                "strategy": STRING,
                "preferredHolder": STRING,
            },
        )
    },
)

SERVICE_CIDR = top(
    "ServiceCIDR",
    {
        "spec": Shape("ServiceCIDRSpec", {"cidrs": STRINGS}),
        "status": Shape("ServiceCIDRStatus", {"conditions": CONDITIONS}),
    },
)
