"""What the agent tells about itself: health, metrics and mode, on kube-proxy's ports and paths."""
