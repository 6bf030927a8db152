"""Exception groups, flattened: what a TaskGroup raises is a tree, and a person wants one line for each fault."""

from collections.abc import Iterator


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that are no groups themselves."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
