"""The ways to carry packets between nodes. `base.py` is what they have in common, `registry.py` finds one."""
