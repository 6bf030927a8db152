"""`kubeproxy trace`: why a packet goes where it goes, by the model, and whether the kernel agrees."""
