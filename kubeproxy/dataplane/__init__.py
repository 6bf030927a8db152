"""ServiceStates → kernel: one folder per way of programming, all behind the seam in `base.py`."""
