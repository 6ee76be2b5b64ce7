"""HingeABL: the parts of the programs at the clone's root. Importing this, or any module in it, changes nothing.

Read train.py first, then data/ (documents), modeling/ (encoder and attention), training/ (a run from start to end),
prediction/ (a run on new text), and reporting/ (tables and figures).
"""
