"""Shapes that every kind shares: ObjectMeta, label selectors, conditions, references."""

from collections.abc import Mapping

from kubeproxy.apiserver.schema import (
    ANY,
    BOOL,
    INT64,
    STRING,
    TIME,
    ListOf,
    MapOf,
    Shape,
    Type,
)

STRINGS = ListOf(STRING)
STRING_MAP = MapOf(STRING)

OWNER_REFERENCE = Shape(
    "OwnerReference",
    {
        "apiVersion": STRING,
        "kind": STRING,
        "name": STRING,
        "uid": STRING,
        "controller": BOOL,
        "blockOwnerDeletion": BOOL,
    },
)

OBJECT_META = Shape(
    "ObjectMeta",
    {
        "name": STRING,
        "generateName": STRING,
        "namespace": STRING,
        "selfLink": STRING,
        "uid": STRING,
        "resourceVersion": STRING,
        "generation": INT64,
        "creationTimestamp": TIME,
        "deletionTimestamp": TIME,
        "deletionGracePeriodSeconds": INT64,
        "labels": STRING_MAP,
        "annotations": STRING_MAP,
        "ownerReferences": ListOf(OWNER_REFERENCE, merge_key="uid"),
        "finalizers": ListOf(STRING, merge=True),
        "managedFields": ANY,
    },
)

LABEL_SELECTOR = Shape(
    "LabelSelector",
    {
        "matchLabels": STRING_MAP,
        "matchExpressions": ListOf(
            Shape("LabelSelectorRequirement", {"key": STRING, "operator": STRING, "values": STRINGS})
        ),
    },
)

OBJECT_REFERENCE = Shape(
    "ObjectReference",
    {
        "kind": STRING,
        "namespace": STRING,
        "name": STRING,
        "uid": STRING,
        "apiVersion": STRING,
        "resourceVersion": STRING,
        "fieldPath": STRING,
    },
)


def condition(name: str, **more: Type) -> ListOf:
    """Return a list of conditions, merged by type."""
    fields: dict[str, Type] = {
        "type": STRING,
        "status": STRING,
        "reason": STRING,
        "message": STRING,
        "lastTransitionTime": TIME,
    }
    return ListOf(Shape(name, fields | more), merge_key="type")


CONDITIONS = condition("Condition", observedGeneration=INT64)


def top(kind: str, fields: Mapping[str, Type]) -> Shape:
    """Return the shape of a kind: apiVersion, kind and metadata in front of its own fields."""
    return Shape(kind, {"apiVersion": STRING, "kind": STRING, "metadata": OBJECT_META, **fields})
