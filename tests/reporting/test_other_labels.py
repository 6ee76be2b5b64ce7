"""A run's test predictions scored with other labels of the same documents: kept in its record, shown beside the
official scores."""

import json
import re
import shutil
import statistics

import pytest
from reports import printed
from test_figures import ALL, make_run

import report
from hingeabl.errors import UserError
from hingeabl.files import sha256_of_file
from hingeabl.readers.documents import load_documents


@pytest.fixture(scope="module")
def runs(sample, tmp_path_factory):
    """Runs of two losses, two seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    for loss in ("atl", "atgl"):
        for seed in (1, 5):
            make_run(folder, sample, loss, seed, ALL)
    return folder


@pytest.fixture(scope="module")
def more_labels(sample, tmp_path_factory):
    """The sample's test documents in another order, each of their pairs with a label P17 or P6 besides its own."""
    documents = load_documents(sample / "test.json")[::-1]
    for document in documents:
        pairs = {(label["h"], label["t"]) for label in document["labels"]}
        stated = {(label["h"], label["t"], label["r"]) for label in document["labels"]}
        new = [(h, t, r) for h, t in sorted(pairs) for r in ("P17", "P6") if (h, t, r) not in stated]
        document["labels"] += [{"h": h, "t": t, "r": r, "evidence": []} for h, t, r in new]
    path = tmp_path_factory.mktemp("labels") / "more.json"
    path.write_text(json.dumps(documents))
    return path


@pytest.fixture(scope="module")
def records(runs, more_labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    report.main(["--record", str(folder), str(runs), "--also", str(more_labels)])
    return folder


def by_hand(run, labels):
    """Precision, recall and F1 of a run's test predictions with the labels of a file."""
    gold = {(d["title"], x["h"], x["t"], x["r"]) for d in json.loads(labels.read_text()) for x in d["labels"]}
    entries = json.loads((run / "result.json").read_text())
    predicted = {(entry["title"], entry["h_idx"], entry["t_idx"], entry["r"]) for entry in entries}
    correct = len(predicted & gold)
    precision, recall = correct / len(predicted), correct / len(gold)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}


def test_a_record_keeps_the_scores_with_other_labels_and_which_file_had_them(runs, records, more_labels):
    for path in sorted(records.rglob("seed_*.json")):
        run = runs / path.relative_to(records).with_suffix("")
        record = json.loads(path.read_text())
        [(name, found)] = record["other_labels"].items()
        assert name == "more.json" and found.pop("sha256") == sha256_of_file(more_labels)
        assert found == pytest.approx(by_hand(run, more_labels))
        assert found["f1"] != pytest.approx(record["scores"]["test"]["f1"])


def test_a_record_that_is_written_again_keeps_its_other_labels(runs, more_labels, tmp_path, capsys):
    run, folder = str(runs / "atlop_atl" / "seed_1"), str(tmp_path)
    labels = {name: shutil.copy(more_labels, tmp_path / name) for name in ("one.json", "two.json")}
    for more in (["--also", str(labels["one.json"])], [], ["--also", str(labels["two.json"])]):
        report.main(["--record", folder, run, *more])
    [record] = [json.loads(path.read_text()) for path in tmp_path.rglob("seed_1.json")]
    assert record["other_labels"].keys() == labels.keys()


def test_the_table_shows_them_beside_the_official_scores_over_seeds(runs, records, more_labels, sample, capsys):
    rows = json.loads(printed(capsys, "--table", "other_labels", records, "--format", "json"))["rows"]
    assert [(row["name"], row["seeds"]) for row in rows] == [("atl", [1, 5]), ("atgl", [1, 5])]
    for row in rows:
        folders = [runs / f"atlop_{row['name']}" / f"seed_{seed}" for seed in (1, 5)]
        for name in ("precision", "recall", "f1"):
            for key, labels in ((name, sample / "test.json"), (f"more.json/{name}", more_labels)):
                values = [100 * by_hand(folder, labels)[name] for folder in folders]
                assert row[key]["mean"] == pytest.approx(statistics.mean(values))
                assert row[key]["std"] == pytest.approx(statistics.stdev(values))
    text = printed(capsys, "--table", "other_labels", records)
    assert re.search(r" precision +recall +F1 +precision, more +recall, more +F1, more\n", text)


def test_the_table_is_among_all_tables_of_records_that_have_such_scores_alone(runs, records, capsys):
    for source, there in ((records, True), (runs, False)):
        tables = json.loads(printed(capsys, "--table", "all", source, "--format", "json"))
        assert ("other_labels" in [table["table"] for table in tables]) is there
    with pytest.raises(UserError, match="other_labels: none of the runs belongs in it; it takes records of ATLOP"):
        report.main(["--table", "other_labels", str(runs)])


def test_a_record_without_such_scores_is_left_out_of_the_table(runs, records, tmp_path, capsys):
    shutil.copytree(records, tmp_path, dirs_exist_ok=True)
    (tmp_path / "atlop_atl" / "seed_5.json").unlink()
    report.main(["--record", str(tmp_path), str(runs / "atlop_atl" / "seed_5")])
    capsys.readouterr()
    table = json.loads(printed(capsys, "--table", "other_labels", tmp_path, "--format", "json"))
    assert "without the scores of this table, left out: 1 of 4 runs" in table["notes"]
    rows = table["rows"]
    assert [row["seeds"] for row in rows] == [[1], [1, 5]]


def test_scores_with_labels_of_different_files_are_not_put_into_one_table(runs, records, more_labels, tmp_path):
    shutil.copytree(records, tmp_path / "records")
    other = tmp_path / "more.json"
    other.write_text(more_labels.read_text() + "\n")
    report.main(["--record", str(tmp_path / "records"), str(runs / "atlop_atl" / "seed_5"), "--also", str(other)])
    with pytest.raises(UserError, match=r"seed_1\.json and .*seed_5\.json: were scored with other labels of different"):
        report.main(["--table", "other_labels", str(tmp_path / "records")])


def without_a_document(documents):
    return documents[1:]


def with_another_title(documents):
    documents[0]["title"] += " (band)"
    return documents


def with_another_entity(documents):
    documents[2]["vertexSet"].append(documents[2]["vertexSet"][0])
    return documents


@pytest.mark.parametrize("change", [without_a_document, with_another_title, with_another_entity])
def test_labels_of_other_documents_are_refused_and_no_record_is_written(runs, more_labels, tmp_path, change):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(change(json.loads(more_labels.read_text()))))
    with pytest.raises(UserError, match=r"other\.json: its documents or .* not those of .*test\.json, such as 'Sample"):
        report.main(["--record", str(tmp_path / "records"), str(runs), "--also", str(other)])
    assert not (tmp_path / "records").exists()


def test_a_file_without_labels_and_a_missing_one_are_refused(runs, more_labels, tmp_path):
    documents = [{**document, "labels": []} for document in json.loads(more_labels.read_text())]
    (tmp_path / "bare.json").write_text(json.dumps(documents))
    for name, expected in (("bare.json", "has no labels; pass a labelled file"), ("gone.json", "no such file")):
        with pytest.raises(UserError, match=rf"{name}: {expected}"):
            report.main(["--record", str(tmp_path), str(runs), "--also", str(tmp_path / name)])


def test_other_labels_go_with_writing_a_record_alone(records, more_labels):
    with pytest.raises(UserError, match="--also: goes with --record alone; leave it out"):
        report.main(["--table", "3", str(records), "--also", str(more_labels)])
