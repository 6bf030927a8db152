"""`kubeproxy apiserver`: a Kubernetes REST API over the store, for real kubectl and for the agents.

A request passes `routes` (which kind, which object), `handlers` (media types, selectors), `registry` (defaulting,
validation, allocation, one store transaction) and comes back as JSON bytes. `kinds` has one row per kind of
object; everything that differs between kinds hangs there.
"""
