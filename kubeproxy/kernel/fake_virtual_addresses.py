"""A model of the virtual addresses' device for tests, ours and our users', with knobs for what can go wrong."""

from collections.abc import Callable, Collection

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.virtual_addresses import DEVICE, AddressesRefused
from kubeproxy.model.addresses import Family, family_of


class FakeDevice:
    """The device, which two families may share; ``kind`` is None while there is none."""

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind
        self.index = 7
        self.routes: dict[str, str] = {}
        """Our local routes, each with its source."""
        self.foreign: set[str] = set()
        """Addresses that somebody put on it."""

    def vanish(self) -> None:
        """Be removed by somebody, with all that is on it."""
        self.kind = None
        self.index += 1
        self.routes.clear()
        self.foreign.clear()


class FakeVirtualAddresses:
    """See `virtual_addresses.Addresses`."""

    def __init__(self, family: Family, device: FakeDevice | None = None) -> None:
        self._family = family
        self.on = device or FakeDevice()
        self.sources: set[str] | None = None
        """The node's addresses, of which a source must be one; None: any is."""
        self.failures: list[KernelError] = []
        """Raised by the next calls, one each, before anything is done."""
        self.refused: dict[str, str] = {}
        """Addresses that the kernel does not take, and why."""
        self.calls: list[str] = []
        """What was done, in order: the verb, and the addresses."""
        self.after_call: Callable[[], None] = lambda: None
        """Somebody who looks at every state."""

    def ensure_device(self) -> int:
        """See `Addresses.ensure_device`."""
        self._begin("ensure_device")
        if self.on.kind not in (None, "dummy"):
            raise KernelError(f"device {DEVICE}: another kind of device has this name ({self.on.kind})")
        self.on.kind = "dummy"
        self.after_call()
        return self.on.index

    def device(self) -> int | None:
        """See `Addresses.device`."""
        self._fail()
        return self.on.index if self.on.kind else None

    def held(self) -> dict[str, str]:
        """See `Addresses.held`."""
        self._fail()
        return {each: source for each, source in self.on.routes.items() if family_of(each) is self._family}

    def add(self, addresses: Collection[str], source: str = "") -> None:
        """See `Addresses.add`. One that is held with another source keeps it, as packets would see it."""
        self._begin("add", addresses)
        refused = self._refusals(addresses, source)
        for each in addresses:
            if each not in refused:
                self.on.routes.setdefault(each, source)
        self._end(refused)

    def set_source(self, addresses: Collection[str], source: str) -> None:
        """See `Addresses.set_source`."""
        self._begin("set_source", addresses)
        refused = self._refusals(addresses, source)
        self.on.routes.update((each, source) for each in addresses if each not in refused)
        self._end(refused)

    def remove(self, addresses: Collection[str]) -> None:
        """See `Addresses.remove`."""
        self._begin("remove", addresses)
        for each in addresses:
            self.on.routes.pop(each, None)
        self._end({})

    def foreign_addresses(self) -> frozenset[str]:
        """See `Addresses.foreign_addresses`."""
        self._fail()
        return frozenset(each for each in self.on.foreign if family_of(each) is self._family)

    def remove_addresses(self, addresses: Collection[str]) -> None:
        """See `Addresses.remove_addresses`."""
        self._begin("remove_addresses", addresses)
        self.on.foreign.difference_update(addresses)
        self._end({})

    def remove_device(self) -> bool:
        """See `Addresses.remove_device`."""
        self._begin("remove_device")
        if self.on.kind == "dummy" and not self.on.routes and not self.on.foreign:
            self.on.vanish()
        self.after_call()
        return self.on.kind is None

    def local(self) -> set[str]:
        """Return the addresses that this node takes packets for, by us or by others."""
        here = set(self.on.routes) | self.on.foreign if self.on.kind else set()
        return {each for each in here if family_of(each) is self._family}

    def _refusals(self, addresses: Collection[str], source: str) -> dict[str, str]:
        if self.on.kind is None:
            raise KernelError(f"device {DEVICE}: is gone; the next full sync makes it anew")
        if source and self.sources is not None and source not in self.sources:
            return dict.fromkeys(addresses, f"the kernel does not take {source} as its source")
        return {each: self.refused[each] for each in addresses if each in self.refused}

    def _begin(self, verb: str, addresses: Collection[str] = ()) -> None:
        assert all(family_of(each) is self._family for each in addresses), f"{addresses}: of another family"
        self._fail()
        self.calls.append(" ".join((verb, *sorted(addresses))))

    def _end(self, refused: dict[str, str]) -> None:
        self.after_call()
        if refused:
            raise AddressesRefused(DEVICE, refused)

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
