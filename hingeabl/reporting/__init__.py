"""Tables, figures and pages from finished runs, for report.py, and what is published of a run.

Read records.py (a run as all of these read it), tables.py and rendering.py (a table's numbers, then its text), with
comparisons.py and significance.py; figures.py and drawing.py; page.py and pairs.py; publishing.py and card.py.
"""
