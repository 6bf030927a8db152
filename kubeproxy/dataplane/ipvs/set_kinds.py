"""What kind of set each of ipvs mode's sets is. Pure."""

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.kernel.ipset_messages import SetType

KINDS = {
    **dict.fromkeys(Set, SetType.PORTS),
    Set.ADDRESSES: SetType.ADDRESSES,
    Set.SHORT_CIRCUIT: SetType.MARKS,
    Set.ADMITTED: SetType.RANGES,
    Set.LOOP_BACK: SetType.ENDPOINTS,
    Set.HEALTH_CHECKS: SetType.PORT_NUMBERS,
}
