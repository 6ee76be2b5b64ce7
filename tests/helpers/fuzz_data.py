"""What broken data files are read by, each with a plain reading of the same bytes: for fuzz.py, see fuzz_targets.py."""

import gzip
import io
import json
import math

from baseline import plain_features, plain_scores
from mutate import edit_bytes, mutated

from evaluation import prepare_gold, score_predictions, train_facts
from hingeabl.data.predictions import read_predictions
from hingeabl.data.relations import load_rel2id
from hingeabl.data.schema import check_document
from hingeabl.data.stream import stream_documents
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.readers.documents import load_documents
from prepro import featurize


def plain_objects(data):
    """What a file of JSON holds, read plainly: the objects of a list, one, or one after the other."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8").lstrip("\ufeff")
    found, decoder = [], json.JSONDecoder()
    while text := text.strip(" \t\r\n"):
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found[0] if isinstance(found[0], list) else found


FORMS = {
    "plain": bytes,
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "gzip": gzip.compress,
    "lines": lambda data: b"\n".join(json.dumps(value).encode() for value in json.loads(data)),
    "UTF-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
}


def fuzz_forms(world, number, structure, in_bytes):
    """Files of documents in every form, broken in bytes after they were packed."""
    value = world.documents[number % len(world.documents)]
    data = mutated(value, structure, [])
    name = list(FORMS)[number % len(FORMS)]
    try:
        data = FORMS[name](data)
    except (ValueError, TypeError, RecursionError):
        data = gzip.compress(data)
    for step in in_bytes:
        data = edit_bytes(data, *step)
    path = world.write("docs.form", data)
    documents = load_documents(path)
    expected = plain_objects(data)
    for document in expected:
        document.update({"labels": [x for x in document["labels"] if x["h"] != x["t"]]} if "labels" in document else {})
    assert documents == expected
    streamed = list(stream_documents(io.BytesIO(data), "docs"))
    assert streamed == [{k: v for k, v in document.items() if k != "labels"} for document in documents]


def fuzz_documents(world, number, structure, in_bytes):
    path = world.write("docs.json", mutated(world.documents[number % len(world.documents)], structure, in_bytes))
    documents = load_documents(path, world.rel2id)
    features = featurize(documents, world.tokenizer, world.rel2id)
    listed = world.write("listed.json", json.dumps(plain_objects(path.read_bytes())).encode())
    for feature, plain in zip(features, plain_features(listed, world.tokenizer, world.rel2id), strict=True):
        rows = {"labels": feature["labels"].tolist()} if "labels" in feature else {"labels": plain["labels"]}
        assert feature | rows == plain
    if number % 4 == 0:
        for document in load_documents(path, typed=True):
            assert all("type" in mention for entity in document["vertexSet"] for mention in entity)


def finite(text):
    """A number, none that is beyond all of them."""
    return 1 / 0 if math.isinf(float(text)) else float(text)


def each_once(pairs):
    """An object, none with a key twice."""
    return dict(pairs) if len(dict(pairs)) == len(pairs) else 1 / 0


def fuzz_stream(world, number, structure, in_bytes):
    value = world.documents[number % len(world.documents)]
    value = value if number % 3 else value[0]
    data = mutated(value, structure, in_bytes)

    def found(chunk):
        try:
            return list(stream_documents(io.BytesIO(data), "docs", chunk=chunk))
        except UserError as error:
            return str(error)

    documents = found(2**20)
    assert found(501) == documents or (isinstance(documents, str) and isinstance(found(501), str))
    try:
        strict = {"parse_constant": lambda name: 1 / 0, "parse_float": finite, "object_pairs_hook": each_once}
        whole = json.loads(data.decode(), **strict)
        json.dumps(whole, ensure_ascii=False).encode()
        whole = whole if isinstance(whole, list) else [whole]
        expected = [{k: v for k, v in document.items() if k != "labels"} for document in whole]
        for document in expected:
            check_document(document, "docs", labels=False)
    except (ValueError, ZeroDivisionError, RecursionError, AttributeError, UserError):
        expected = None
    if expected is None:
        assert isinstance(documents, str) or not data.lstrip().startswith(b"[")  # one after the other
    else:
        assert documents == expected
    if isinstance(documents, str):
        raise UserError(documents)


def fuzz_predictions(world, number, structure, in_bytes):
    labels = [(d["title"], label) for d in world.dev for label in d["labels"]]
    good = [{"title": title, "h_idx": x["h"], "t_idx": x["t"], "r": x["r"]} for title, x in labels[number % 5 :: 2]]
    if number % 2:
        good = [entry | {"evidence": [0, 1]} for entry in good]
    path = world.write("result.json", mutated(good, structure, in_bytes))
    predictions = read_predictions(path)
    scores = score_predictions(predictions, world.gold, str(path))
    plain = plain_scores(predictions, world.folder / "dev.json", world.folder / "train.json")
    close(scores, plain)
    assert scores["n_predictions"] == len(predictions)


def close(scores, plain):
    for name, value in plain.items():
        assert abs(scores[name] - value) < 1e-9, f"{name}: {scores[name]} is not {value}"


def fuzz_gold(world, number, structure, in_bytes):
    gold = read_json(world.folder / "dev.json")
    path = world.write("gold.json", mutated(gold, structure, in_bytes))
    documents = load_documents(path, unique_titles=True)
    if any(set(document) >= {"labels"} and document["labels"] for document in documents):
        prepared = prepare_gold(documents, train_facts(world.train))
        good = read_json(world.run / "result_dev.json")[: 50 * (number % 4)]
        scores = score_predictions(good, prepared, "result_dev.json")
        plain = [{"labels": []} | document for document in documents]
        for document in plain:
            document["labels"] = [{"evidence": []} | label for label in document["labels"]]
        world.write("plain.json", json.dumps(plain).encode())
        if len(plain) == len(gold):
            close(scores, plain_scores(good, world.folder / "plain.json", world.folder / "train.json"))


def fuzz_rel2id(world, number, structure, in_bytes):
    path = world.write("rel2id.json", mutated(dict(list(world.rel2id.items())[: 2 + number % 96]), structure, in_bytes))
    rel2id = load_rel2id(path)
    assert rel2id == json.loads(path.read_text()) and sorted(rel2id.values()) == list(range(len(rel2id)))
    assert all(type(index) is int for index in rel2id.values())
