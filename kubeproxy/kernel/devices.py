"""Network devices of which only the name is known: asking for their kind. Blocking."""

import errno

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kubeproxy.kernel.exec import KernelError


class Devices:
    """The devices of the network namespace of the calling thread."""

    def kind(self, name: str) -> str | None:
        """Return a device's kind (`dummy`, `veth`), "" when it has none, None when there is no such device."""
        try:
            with IPRoute() as kernel:
                found = next(iter(kernel.link("get", ifname=name)), None)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise KernelError(f"device {name}: {error.args[1]}") from error
        info = found.get_attr("IFLA_LINKINFO") if found is not None else None
        if info is None:
            return None if found is None else ""
        return str(info.get_attr("IFLA_INFO_KIND") or "")
