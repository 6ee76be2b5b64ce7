"""HingeABL: the modules behind the programs at the clone's root. Importing this package, or a module in it, has no side
effects.

Read train.py first, then data/ (documents), modeling/ (encoder and attention), training/ (a run from start to end),
prediction/ (a run on new text), and reporting/ (tables and figures).
"""
