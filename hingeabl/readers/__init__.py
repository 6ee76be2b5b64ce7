"""Input formats other than DocRED's: each reader turns a file into documents in DocRED's schema.

Read any_format.py, which chooses a reader, and align.py, which turns character offsets into tokens; then the reader of
your format: spans.py, pubtator.py, brat.py, exports.py (doccano, Label Studio) or text.py (plain text; its parts are
mentions.py and coreference.py).
"""
