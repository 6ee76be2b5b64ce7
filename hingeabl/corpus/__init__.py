"""Many documents: predicted by workers on Ray, in parts that are finished once, then joined to one graph.

Read sources.py (documents as bytes), worker.py (the predictions of a part), folder.py (the output, and what of it is
finished) and pool.py (Ray). graph.py joins the entities and writes the graph.
"""
