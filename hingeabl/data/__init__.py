"""Documents before any model: read, checked, counted, split into word pieces.

Read schema.py (one document) and documents.py (a file of them), stream.py and formats.py (large files, file formats),
tokenizer.py and cache.py (word pieces), then checks.py, statistics.py and predictions.py.
"""
