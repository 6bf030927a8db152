"""What the agent tells about itself: health, metrics and mode, on kube-proxy's ports and paths."""

COMPONENT = "kube-proxy"
"""What the agent calls itself where others look for kube-proxy: in Events, and on its debugging pages."""
