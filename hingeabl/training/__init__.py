"""A training around the loop in train.py: what its seeds share, its steps, its folder, and how it goes on when stopped.

An epoch is train.py, steps.py (batches), session.py (log, checkpoints) and inference.py (scores); settings.py and
experiment.py come before. On disk: runs.py, resume.py, saved_run.py, fitted.py. The other files where you need them.
"""
