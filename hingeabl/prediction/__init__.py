"""A finished run on new text: in Python, in spaCy, and behind a web page. predict.py has the command line.

Read predictor.py first. spacy_component.py wraps it; server.py serves it, with answers.py (a request and its answer),
jobs.py (one model for many requests) and guard.py (who may ask).
"""
