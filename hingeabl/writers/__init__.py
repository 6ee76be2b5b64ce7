"""Output formats of predictions, for predict.py and the server.

Read writer.py (what every format has to do), by_extension.py (which file extension has which), then the format:
json_csv_cypher.py, rdf.py (Turtle, N-Triples), networks.py (GraphML, SVG, PNG) or annotated.py (spans, brat).
"""
