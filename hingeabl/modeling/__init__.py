"""The parts that model.py puts together: the encoder, what is read from it, and the representation modules' layers.

Read encoder.py with attention.py, entities.py and bilinear.py, then layers.py (DocuNet, KD-DocRE) and evidence.py
(DREEAM); padded.py and precision.py make it fast, checkpoints.py is weights on disk.
"""
