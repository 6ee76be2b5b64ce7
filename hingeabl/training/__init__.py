"""A training around the loop in train.py: what its seeds share, its steps, its folder, and how it goes on when stopped.

Read settings.py, experiment.py, session.py (one seed) and steps.py (its batches), then runs.py, resume.py and
saved_run.py (its files); parallel.py, scaling.py, distillation.py, fusion.py and hub.py where you need them.
"""
