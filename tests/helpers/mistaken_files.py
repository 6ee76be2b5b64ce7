"""A document, a right prediction for it, and files and calls of programs with mistakes made of them."""

import copy
import json
import sys

DOCUMENT = {
    "title": "Example",
    "sents": [["Anna", "Abel", "left", "Kirona", "."], ["She", "met", "Boris", "."]],
    "vertexSet": [
        [{"name": "Anna Abel", "sent_id": 0, "pos": [0, 2], "type": "PER"}],
        [{"name": "Kirona", "sent_id": 0, "pos": [3, 4], "type": "LOC"}],
        [{"name": "Boris", "sent_id": 1, "pos": [2, 3], "type": "PER"}],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P19", "evidence": [0]}],
}
RIGHT = {"title": "Example", "h_idx": 0, "t_idx": 1, "r": "P19"}


def moved(shift):
    """DOCUMENT, its mentions at positions that `shift` makes of [start, end]."""
    document = copy.deepcopy(DOCUMENT)
    document["sents"] = [["Yes", ",", *sentence, "x", "y", "z"] for sentence in document["sents"]]
    for mentions in document["vertexSet"]:
        for mention in mentions:
            mention["pos"] = shift(*(place + 2 for place in mention["pos"]))
    return document


def written(folder, content, name="data.json"):
    """A file of that content: bytes, text, or a value as JSON."""
    path = folder / name
    data = content if isinstance(content, (bytes, str)) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def run_program(monkeypatch, program, *command):
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, command)])
    program.main()
