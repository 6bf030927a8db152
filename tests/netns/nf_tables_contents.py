"""All that a table of nf_tables holds, to be compared."""

from kubeproxy.kernel.nf_tables.base import NfTable


def contents(table: NfTable) -> dict[str, object]:
    """Return it by kind and name; of elements that end by themselves not when."""
    found: dict[str, object] = {"there": table.exists(), "asleep": table.is_dormant()}
    found |= {"chains": table.chains(), "sets": table.sets()}
    for name in table.chains():
        found[f"chain {name}"] = table.rules(name)
    for name in table.sets():
        found[f"set {name}"] = {
            (each.key, each.data, each.comment, each.end, each.timeout) for each in table.elements(name)
        }
    return found
