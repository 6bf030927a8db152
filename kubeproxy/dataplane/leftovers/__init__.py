"""What a node still holds of a kube-proxy, or of a mode of ours, that does not run any more."""
