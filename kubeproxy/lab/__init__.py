"""The lab: a cluster of several nodes on one machine, made of namespaces, for learning, tests and the demo.

Nothing here is part of the node agent. `cli` makes a lab (`init` is its process 1, in namespaces of its own),
`supervisor` keeps the cluster's programs running in it, `kubelet` runs pods, `controllers` turn Deployments
into Pods. Whatever a lab makes lives in namespaces that end with its process 1, and in one directory.
"""
