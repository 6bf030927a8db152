"""How many connections lead through each Service, as far as the kernel counts: `kubeproxy status --services`."""
