"""A training around the loop in train.py: what its seeds share, its steps, its folder, and how it goes on when stopped.

Read settings.py and experiment.py; an epoch in steps.py (batches), session.py (log, checkpoints) and inference.py
(scores); then what lies on disk, runs.py, resume.py, saved_run.py and fitted.py; the other files where you need them.
"""
