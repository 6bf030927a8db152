"""The scenario table, all of it."""

from tests.scenarios import (
    rows_affinity,
    rows_bad_objects,
    rows_basics,
    rows_circumstances,
    rows_crowds,
    rows_exposure,
    rows_hints,
    rows_labels,
    rows_masquerade,
    rows_node_ports,
    rows_policies,
    rows_source_ranges,
    rows_terminating,
)
from tests.scenarios.table import Row

ROWS: tuple[Row, ...] = (
    *rows_basics.ROWS,
    *rows_exposure.ROWS,
    *rows_node_ports.ROWS,
    *rows_masquerade.ROWS,
    *rows_policies.ROWS,
    *rows_terminating.ROWS,
    *rows_hints.ROWS,
    *rows_source_ranges.ROWS,
    *rows_affinity.ROWS,
    *rows_labels.ROWS,
    *rows_bad_objects.ROWS,
    *rows_crowds.ROWS,
    *rows_circumstances.ROWS,
)
