"""Training: the loop (loop.py), its batches (batches.py, augment.py), resume state (state.py), one run (run.py)."""
