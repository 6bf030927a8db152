"""Whether the kernel would carry out a transaction: it is asked, in one that it does not. Blocking.

The last step is one that no kernel takes. When it is the first that is refused, the kernel would have taken
everything else, and has loaded the modules for it; nothing of it was ever there to be seen.
"""

import errno
from collections.abc import Iterable

from kubeproxy.kernel.errors import KernelError
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.types import Change, DeleteChain

_NOT_THERE = "nobody-has-such-a-chain"


def refusal(table: NfTable, steps: Iterable[Change]) -> Refused | None:
    """Return what the kernel refuses of steps, None when it would take them. Raises KernelError, OSError.

    ``table`` should be one that nobody has; the steps make it.
    """
    asked = [*steps, DeleteChain(_NOT_THERE)]
    try:
        table.commit(asked)
    except Refused as refused:
        if refused.change == len(asked) - 1 and refused.code == errno.ENOENT:
            return None
        return refused
    raise KernelError("nf_tables did what cannot be done")


def trouble(table: NfTable, steps: Iterable[Change], unable: str = "") -> str:
    """Return why the kernel would not carry out steps, "" when it would.

    ``unable`` begins what is said when it refused them for want of an ability, not of a right.
    """
    try:
        refused = refusal(table, steps)
    except (KernelError, OSError) as error:
        return f"the kernel does not tell whether it can: {error}"
    if refused is not None and refused.code == errno.EPERM:
        return f"{refused}; it takes root, or CAP_NET_ADMIN"
    return f"{unable}{refused}" if refused else ""
