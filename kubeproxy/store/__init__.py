"""Where the cluster's state lives: a key-value contract (etcd v3's), its engines, and objects on it."""
