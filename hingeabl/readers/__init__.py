"""Files of documents in any format: each reader returns documents in DocRED's schema.

Read documents.py (DocRED's schema; cdr.py for CDR and GDA) and formats.py (how a format is recognised), any_format.py
(which chooses a reader) and align.py (character offsets to tokens); then the reader of your format: spans.py,
pubtator.py, brat.py, exports.py, dwie.py, or text.py with its parts mentions.py and coreference.py.
"""
