"""Output formats of predictions, for predict.py and the server.

Read writer.py (the interface of every format), by_extension.py (the format of each file extension), then the format:
json_csv_cypher.py, rdf.py (Turtle, N-Triples), networks.py (GraphML, SVG, PNG) or annotated.py (spans, brat).
"""
