"""The service-networking dataplane of a Kubernetes node: the model, the store, and the service proxy.

``dns`` and ``flannel`` build on this package and never on each other; `docs/architecture.md` draws the house.
"""

__version__ = "0.1.0"
