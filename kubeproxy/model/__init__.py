"""Pure: what the store says (World) and what the node should therefore do (ServiceState).

Nothing below this package opens a socket, reads a clock or starts a process; import-linter enforces it.
"""
