"""A trained run on new documents, and reading them as a stream."""

import io
import json
import re
import shutil
import subprocess
import sys
import tracemalloc

import pytest
import torch
from conftest import ROOT
from model_scores import CPU
from predictions import FIELDS, predict_file
from trainings import EMPTY

import evaluation
import predict
import train
from hingeabl.data.relations import RELATION_NAMES
from hingeabl.data.stream import LARGEST, read_objects, stream_documents
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.training import inference
from hingeabl.training.saved_run import open_run
from prepro import read_docred


@pytest.fixture
def run(trained):
    """A finished run's folder."""
    return trained


@pytest.fixture
def documents(sample):
    return json.loads((sample / "test.json").read_text())


def triples(predictions):
    return {(entry["title"], entry["h_idx"], entry["t_idx"], entry["r"]) for entry in predictions}


def test_predictions_are_those_of_the_runs_evaluation_in_its_order(run, documents, tmp_path):
    expected = read_json(run / "result.json")
    found = predict_file(run, documents, tmp_path)
    assert len(triples(expected)) > 10 and triples(found) == triples(expected)
    assert [{field: entry[field] for field in FIELDS[:4]} for entry in found] == expected


def test_scores_and_thresholds_are_the_models_and_margins_their_difference(run, documents, sample, tmp_path):
    opened = open_run(run, CPU)
    features = read_docred(sample / "test.json", opened.tokenizer, opened.rel2id)
    expected = {}
    for indices, scores, *_ in inference.score(opened.model, features, CPU, "fp32", 4096):
        rows = [(features[index]["title"], *pair) for index in indices for pair in features[index]["hts"]]
        expected.update(zip(rows, scores, strict=True))
    found = predict_file(run, documents, tmp_path)
    assert found
    for entry in found:
        assert list(entry) == FIELDS
        row = expected[entry["title"], entry["h_idx"], entry["t_idx"]]
        assert entry["score"] == pytest.approx(float(row[opened.rel2id[entry["r"]]]), abs=1e-5)
        assert entry["threshold"] == pytest.approx(float(row[0]), abs=1e-5)
        assert entry["margin"] > 0 and entry["margin"] == entry["score"] - entry["threshold"]


def test_a_loss_that_decides_against_zero_has_that_threshold(run, documents, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = read_json(folder / "config.json")
    config["settings"].update(loss_type="balanced_softmax", num_labels=1)
    (folder / "config.json").write_text(json.dumps(config))
    found = predict_file(folder, documents, tmp_path)
    assert found and all(entry["threshold"] == 0 < entry["score"] == entry["margin"] for entry in found)
    pairs = [(entry["title"], entry["h_idx"], entry["t_idx"]) for entry in found]
    assert len(set(pairs)) == len(pairs)  # one relation a pair, as the run's num_labels says


def test_groups_change_neither_predictions_nor_order(run, documents, tmp_path, monkeypatch):
    more = [{**document, "title": f"{number}"} for number, document in enumerate([EMPTY, *documents, EMPTY])]
    whole = predict_file(run, more, tmp_path)
    monkeypatch.setattr(predict, "GROUP_SIZE", 2)
    grouped = predict_file(run, more, tmp_path, "--test_batch_size", "1")
    assert [{**entry, "score": 0, "threshold": 0, "margin": 0, "confidence": 0} for entry in grouped] == [
        {**entry, "score": 0, "threshold": 0, "margin": 0, "confidence": 0} for entry in whole
    ]
    for name in ("score", "threshold", "confidence"):
        assert [entry[name] for entry in grouped] == pytest.approx([entry[name] for entry in whole], abs=1e-5)


def test_relations_have_their_names_or_show_their_own_identifier(run, documents, rel2id, tmp_path):
    names = read_json(RELATION_NAMES)
    assert names.keys() == rel2id.keys() and names["P131"] == "located in the administrative territorial entity"
    found = predict_file(run, documents, tmp_path)
    assert all(entry["relation"] == names[entry["r"]] for entry in found)
    own = shutil.copytree(run, tmp_path / "own")
    renamed = {name if name == "Na" else f"own:{name}": index for name, index in rel2id.items()}
    (own / "rel2id.json").write_text(json.dumps(renamed))
    assert [entry["relation"] for entry in predict_file(own, documents, tmp_path)] == [
        f"own:{entry['r']}" for entry in found
    ]


def test_labels_are_neither_needed_nor_looked_at(run, documents, tmp_path):
    expected = predict_file(run, documents, tmp_path)
    del documents[0]["labels"]
    documents[1]["labels"] = [{"h": 0, "t": 99, "r": "no relation of ours"}]
    documents[2]["labels"] = "none"
    assert predict_file(run, documents, tmp_path) == expected


def test_the_evaluator_takes_the_file(run, documents, sample, tmp_path, monkeypatch):
    predict_file(run, documents, tmp_path)
    files = ["--predictions", tmp_path / "found.json", "--gold", sample / "test.json"]
    files += ["--train", sample / "train.json", "--json", tmp_path / "scores.json"]
    monkeypatch.setattr("sys.argv", ["evaluation.py", *map(str, files)])
    evaluation.main()
    expected, found = read_json(run / "scores.json")["test"], read_json(tmp_path / "scores.json")
    assert found == {name: expected[name] for name in found} and found["n_predictions"] > 0


def run_script(run, text, *more):
    command = [sys.executable, "predict.py", "--load_path", run, "--input", "-", *more]
    return subprocess.run(command, cwd=ROOT, input=text.encode(), capture_output=True)


def test_one_document_from_standard_input_goes_to_standard_output(run, documents):
    expected = [entry for entry in read_json(run / "result.json") if entry["title"] == documents[1]["title"]]
    done = run_script(run, json.dumps(documents[1], indent=2))
    found = json.loads(done.stdout)
    assert done.returncode == 0 and expected and triples(found) == triples(expected)


def test_an_error_on_standard_output_is_one_line_and_no_list(run, documents):
    done = run_script(run, json.dumps([documents[0], {**documents[1], "sents": 1}]))
    last = done.stderr.decode().replace("\r", "\n").strip().splitlines()[-1]
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr.decode()
    assert re.search(r"error: standard input: document 1 \('.*'\): sents: has the wrong type", last)


def test_a_broken_document_in_the_middle_is_named_and_leaves_no_output(run, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "GROUP_SIZE", 2)
    title = documents[3]["title"]
    documents[3]["vertexSet"][1][0]["pos"] = [3, 3]
    expected = re.escape(f"docs.json: document 3 ({title!r}): vertexSet[1][0].pos: [3, 3] is empty")
    with pytest.raises(UserError, match=expected):
        predict_file(run, documents, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["docs.json"]
    (tmp_path / "found.json").write_text("older")
    with pytest.raises(UserError, match=expected):
        predict_file(run, documents, tmp_path)
    assert (tmp_path / "found.json").read_text() == "older"


def test_an_empty_list_and_documents_without_pairs_give_an_empty_list(run, tmp_path):
    one = {"title": "A", "sents": [["a"]], "vertexSet": [[{"name": "a", "sent_id": 0, "pos": [0, 1]}]]}
    assert predict_file(run, [], tmp_path) == predict_file(run, [EMPTY, one], tmp_path) == []


def test_documents_are_cut_at_max_seq_length_and_that_is_said(run, documents, tmp_path, capsys):
    expected = predict_file(run, documents, tmp_path)
    assert "are cut" not in capsys.readouterr().err
    documents[0]["sents"].append(["word"] * 1100)
    found = predict_file(run, documents, tmp_path, "--max_seq_length", "1024")
    told = f"docs.json: 1 of {len(documents)} documents are longer than max_seq_length, 1,024 word pieces, and are cut"
    assert told in capsys.readouterr().err
    other = documents[0]["title"]
    assert triples(entry for entry in found if entry["title"] != other) == triples(
        entry for entry in expected if entry["title"] != other
    )


def test_scores_that_are_not_finite_are_refused_with_their_document(
    run, documents, sample, tiny_bert, tmp_path, monkeypatch
):
    def broken(model, features, *rest):
        for number in range(len(features)):
            scores = torch.zeros(len(features[number]["hts"]), 97)
            scores[-1, 5] = float("nan") if number == 2 else 0.0
            yield inference.ScoredBatch([number], scores, None, None)

    monkeypatch.setattr(inference, "score", broken)
    told = re.escape(f"document {documents[2]['title']!r}: a score is not finite")
    with pytest.raises(UserError, match=told):
        predict_file(run, documents, tmp_path)
    assert not (tmp_path / "found.json").exists()
    with pytest.raises(UserError, match="a score is not finite; pass --precision fp32"):
        train.main(["--load_path", str(run), "--output_dir", str(tmp_path / "scored")])
    assert not list((tmp_path / "scored").glob("*.json"))
    data = [
        "--data_dir",
        str(sample),
        "--train_file",
        "train.json",
        "--dev_file",
        "dev.json",
        "--test_file",
        "test.json",
    ]
    begun = ["--model_name_or_path", str(tiny_bert), "--emb_size", "64", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="train again with --precision bf16 or fp32 and another --output_dir"):
        train.main([*data, *begun, "--seeds", "1", "--num_train_epochs", "1"])


def test_missing_and_unfit_files_are_refused(run, documents, tmp_path):
    docs = tmp_path / "docs.json"
    docs.write_text(json.dumps(documents))

    def refused(message, load_path=run, source=docs, output=tmp_path / "found.json"):
        with pytest.raises(UserError, match=message):
            predict.main(["--load_path", str(load_path), "--input", str(source), "--output", str(output)])
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["docs.json"]

    refused("none.json: no such file", source=tmp_path / "none.json")
    refused(r"is a folder without \.ann files or texts; it has docs\.json: pass these$", source=tmp_path)
    refused("config.json: no such file", load_path=tmp_path)
    refused("is a folder; name a file", output=tmp_path)
    refused("cannot be written", output=docs / "found.json")
    refused("is the file of --input too", output=tmp_path / "." / "docs.json")
    unfit = shutil.copytree(run, tmp_path / "unfit")
    (unfit / "rel2id.json").write_text('{"Na": 0, "P17": 1}')
    refused("has 2 classes, the model 97", load_path=unfit)
    assert json.loads(docs.read_text()) == documents


def test_typed_markers_need_types(run, documents, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = read_json(folder / "config.json")
    config["settings"]["entity_marker"] = "typed"
    (folder / "config.json").write_text(json.dumps(config))
    assert predict_file(folder, documents, tmp_path) != predict_file(run, documents, tmp_path)
    documents[1]["vertexSet"][0][0]["type"] = "CITY"
    with pytest.raises(UserError, match=r"document 1 .*vertexSet\[0\]\[0\]\.type: 'CITY' is none of"):
        predict_file(folder, documents, tmp_path)


# Reading as a stream

AWKWARD = [
    {"title": 'brace } bracket ] quote " backslash \\', "sents": [["{", "}", "[", "]", '"', "\\", '\\"', '"}]']]},
    {
        "title": "Zürich 東京 🎈 \u2028",
        "sents": [["é" * 7, "🎈🎈", "\n\t\u0000"]],
        "vertexSet": [[{"a": [1.5e-3, -2]}]],
    },
    {"": {"": [{}, [], "", None, True, False, 0]}},
    {},
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 16, 61, 2**20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "layout",
    [
        lambda texts: f"[{','.join(texts)}]",
        lambda texts: " [\r\n" + " ,\n\t".join(texts) + "\n] \n",
        lambda texts: "\n".join(texts) + "\n",
        "".join,
    ],
    ids=["list", "spaced list", "lines", "one after the other"],
)
def test_text_cut_anywhere_is_read_whole(chunk, ascii_only, layout):
    for indent in (None, 1):
        text = layout([json.dumps(value, ensure_ascii=ascii_only, indent=indent) for value in AWKWARD])
        assert list(read_objects(io.BytesIO(text.encode()), "docs", chunk)) == AWKWARD


class Generated(io.RawIOBase):
    """A file of `count` documents of about `size` characters that is in no memory; `read_so_far` counts its bytes."""

    def __init__(self, count, size, head=b"["):
        self.pieces, self.left, self.read_so_far = self.parts(count, size, head), b"", 0

    def parts(self, count, size, head):
        yield head
        for number in range(count):
            yield self.part(number, size) + (b"," if number + 1 < count else b"]")

    def part(self, number, size):
        return json.dumps({"title": f"{number:06}", "sents": [['}]{["\\ é', "x" * size]], "vertexSet": []}).encode()

    def read(self, size):
        while len(self.left) < size and (piece := next(self.pieces, None)):
            self.left += piece
        data, self.left = self.left[:size], self.left[size:]
        self.read_so_far += len(data)
        return data


def test_no_more_than_a_chunk_is_read_ahead():
    file, chunk, end = Generated(300, 200), 64, 1
    for number, document in enumerate(stream_documents(file, "docs", chunk=chunk)):
        assert document["title"] == f"{number:06}"
        end += len(file.part(number, 200))
        assert end <= file.read_so_far < end + chunk
        end += 1
    assert number == 299


@pytest.mark.slow
def test_memory_holds_a_chunk_and_a_document_however_large_the_file_is():
    file, chunk, size = Generated(3000, 5000), 4096, 5000
    tracemalloc.start()
    assert sum(1 for _ in read_objects(file, "docs", chunk)) == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.read_so_far > 15_000_000 and peak < 20 * (chunk + size)


def test_a_document_without_an_end_is_refused_before_the_file_is_in_memory():
    file = Generated(2000, 20_000, head=b'[{"title": "A", "sents": [')
    with pytest.raises(UserError, match=r"docs: document 0: has no end within"):
        list(read_objects(file, "docs"))
    assert file.read_so_far < LARGEST + 2**21


@pytest.mark.parametrize("chunk", [1, 4, 2**20])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "docs: is empty"),
        (" \n", "docs: is empty"),
        ("[", r"docs: document 0: broken JSON \(the file ends"),
        ('[{"a": "b', r"docs: document 0: broken JSON \(the file ends"),
        ('[{"a": 1}', "where , or ] must follow document 0"),
        ('[{"a": 1} {"a": 2}]', "'{' where , or ] must follow document 0"),
        ('[{"a": 1}, ', r"docs: document 1: broken JSON \(the file ends"),
        ('[{"a": 1},]', "document 1: is not an object with title.* found ']'"),
        ('[{"a": 1}, 7]', "document 1: is not an object with title.* found '7'"),
        ('[{"a": 1}] x', "'x' after the end of the list"),
        ("title", "document 0: is not an object .* found 't'"),
        ('[{"a": 1}, {"a": }, {"a": 3}]', r"document 1: broken JSON \(Expecting value"),
        ('[{"a": [1}]', r"document 0: broken JSON \("),
        ('[{"a": NaN}]', "document 0: broken JSON .*NaN is not JSON"),
        ('{"a": 1}\n{"a": 2]', r"document 1: broken JSON \("),
        ('[{"a": "\\ud800"}]', "document 0: holds .*half of a character"),
        (b'[{"a": "\xc3\xa9 \xff"}]', r"docs: not UTF-8 text \(invalid start byte at byte 11\)"),
        (b'[{"a": "\xc3', r"docs: not UTF-8 text \(unexpected end of data at byte 8\)"),
        ('[{"a":' + "[" * 100_000, "broken JSON"),
    ],
)
def test_broken_and_truncated_json_is_told_in_one_line(text, expected, chunk):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(UserError, match=expected) as caught:
        list(read_objects(io.BytesIO(data), "docs", min(chunk * 10_000, 2**20) if len(data) > 1000 else chunk))
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_list_is_refused():
    text = json.dumps(AWKWARD, ensure_ascii=False).encode()
    for stop in range(len(text)):
        with pytest.raises(UserError, match=r"^docs: "):
            list(read_objects(io.BytesIO(text[:stop]), "docs", 16))
