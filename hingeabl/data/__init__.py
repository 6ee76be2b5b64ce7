"""Documents before any model: checked, counted, split into word pieces.

Read schema.py (one document), relations.py (rel2id) and stream.py (large files), tokenizer.py and cache.py (word
pieces), then pairs.py, checks.py, statistics.py and predictions.py. hingeabl/readers/ reads files of documents.
"""
