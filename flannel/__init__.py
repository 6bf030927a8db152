"""The overlay: nodes lease subnets of one flat pod network from the store, and reach each other's.

Behaves like flanneld: its flags and environment variables, its etcd schema, subnet.env, its wire formats.
`flannel/README.md` draws the parts.
"""
