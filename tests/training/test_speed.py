"""What makes it fast changes no result: the cache, large evaluation batches; and the benchmark runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bench
import pytest
import torch
from conftest import ROOT

import prepro
from hingeabl.data.cache import pieces_path
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.training import inference
from hingeabl.training.inference import batches_by_size, predict, score
from losses import get_loss
from model import DocREModel
from prepro import read_docred


@pytest.fixture
def no_tokenizing(monkeypatch):
    """Fails where word pieces are split again."""

    def refuse(*_):
        raise AssertionError("the tokens were split again")

    return lambda: monkeypatch.setattr(prepro, "encode_documents", refuse)


def equal(first, second):
    return all(
        {**a, "labels": a["labels"].tolist()} == {**b, "labels": b["labels"].tolist()}
        for a, b in zip(first, second, strict=True)
    )


def test_a_second_run_takes_its_word_pieces_from_the_cache(sample, minilm_tokenizer, rel2id, tmp_path, no_tokenizing):
    first = read_docred(sample / "train.json", minilm_tokenizer, rel2id, cache_dir=tmp_path)
    no_tokenizing()
    assert equal(first, read_docred(sample / "train.json", minilm_tokenizer, rel2id, cache_dir=tmp_path))


def test_the_cache_knows_content_settings_and_tokenizer(sample, minilm_tokenizer, tiny_roberta, tmp_path):
    changed = tmp_path / "train.json"
    changed.write_text((sample / "train.json").read_text().replace("the", "a", 1))
    roberta = load_tokenizer(str(tiny_roberta))
    paths = {
        pieces_path(tmp_path, sample / "train.json", minilm_tokenizer, 1024),
        pieces_path(tmp_path, sample / "train.json", minilm_tokenizer, 512),
        pieces_path(tmp_path, sample / "train.json", minilm_tokenizer, 1024, "typed"),
        pieces_path(tmp_path, sample / "train.json", roberta, 1024),
        pieces_path(tmp_path, changed, minilm_tokenizer, 1024),
    }
    assert len(paths) == 5
    minilm_tokenizer(["a"], truncation=True, max_length=3)  # leaves its mark on the tokenizer, not on the name
    assert pieces_path(tmp_path, sample / "train.json", minilm_tokenizer, 1024) in paths


@pytest.mark.parametrize("break_it", ["empty", "cut", "flip near the end", "flip a piece", "other documents"])
def test_a_broken_cache_file_is_made_again(sample, minilm_tokenizer, rel2id, tmp_path, break_it):
    first = read_docred(sample / "train.json", minilm_tokenizer, rel2id, cache_dir=tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    if break_it == "other documents":
        read_docred(sample / "dev.json", minilm_tokenizer, rel2id, cache_dir=tmp_path)
        [other] = set(tmp_path.iterdir()) - {path}
        path.write_bytes(other.read_bytes())
    else:
        place = {"flip near the end": len(whole) - 40, "flip a piece": len(whole) // 2}.get(break_it, 0)
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes({"empty": b"", "cut": whole[:-100]}.get(break_it, flipped))
    assert equal(first, read_docred(sample / "train.json", minilm_tokenizer, rel2id, cache_dir=tmp_path))
    assert path.read_bytes() == whole


def test_the_cache_can_be_read_by_whom_its_folder_lets(sample, minilm_tokenizer, rel2id, tmp_path):
    read_docred(sample / "dev.json", minilm_tokenizer, rel2id, cache_dir=tmp_path / "cache")
    [path] = (tmp_path / "cache").iterdir()
    (tmp_path / "a.txt").touch()
    assert path.stat().st_mode == (tmp_path / "a.txt").stat().st_mode


def test_a_cache_that_cannot_be_written_is_gone_without(sample, minilm_tokenizer, rel2id, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    features = read_docred(sample / "dev.json", minilm_tokenizer, rel2id, cache_dir=tmp_path / "file")
    assert len(features) == 5
    assert "the cache cannot be written" in capsys.readouterr().err


def test_predictions_do_not_depend_on_the_batch_budget(sample, tiny_bert, minilm_tokenizer, rel2id, monkeypatch):
    monkeypatch.setattr(inference, "CPU_BUDGET", 10**9)
    features = read_docred(sample / "train.json", minilm_tokenizer, rel2id)
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), emb_size=64)
    relations = {number: name for name, number in rel2id.items()}
    results = [
        predict(model, features, get_loss("atl"), relations, torch.device("cpu"), "fp32", 4, budget)
        for budget in (1, 2000, 10**9)
    ]
    predictions, patterns, pairs, counts = results[0]
    for other in results[1:]:
        assert (other.entries, other.patterns, other.counts) == (predictions, patterns, counts)
        assert other.pairs["document"].equal(pairs["document"]) and other.pairs["entities"].equal(pairs["entities"])
        torch.testing.assert_close(other.pairs["scores"], pairs["scores"])
    assert len(pairs["document"]) and (pairs["document"].diff() >= 0).all()
    assert sum(patterns.values()) == sum(len(feature["hts"]) for feature in features)
    assert [len(found) for found in results[0].entries_by_document()] == list(counts) and sum(counts) == len(
        predictions
    )
    titles = [entry["title"] for entry in predictions]
    order = [feature["title"] for feature in features]
    assert titles == sorted(titles, key=order.index) and len(set(titles)) > 1


def test_a_batch_on_the_cpu_is_small_whatever_the_budget(sample, tiny_bert, minilm_tokenizer, rel2id):
    features = read_docred(sample / "train.json", minilm_tokenizer, rel2id)
    scored = list(score(DocREModel(str(tiny_bert), emb_size=64), features, torch.device("cpu"), "fp32", 10**9))
    assert [batch.indices for batch in scored] == batches_by_size(features, inference.CPU_BUDGET) and len(scored) > 1


def test_batches_hold_every_document_once_the_longest_first_within_the_budget(sample, minilm_tokenizer, rel2id):
    features = read_docred(sample / "train.json", minilm_tokenizer, rel2id)
    sizes = [len(feature["input_ids"]) + len(feature["hts"]) for feature in features]
    for budget in (1, 1500, 10**9):
        batches = batches_by_size(features, budget)
        assert sorted(index for batch in batches for index in batch) == list(range(len(features)))
        lengths = [len(features[index]["input_ids"]) for batch in batches for index in batch]
        assert lengths == sorted(lengths, reverse=True)
        assert all(len(batch) == 1 or sum(sizes[index] for index in batch) <= budget for batch in batches)
    assert len(batches_by_size(features, 1)) == len(features) and len(batches_by_size(features, 10**9)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hingeabl_released", "amtl"])
def test_the_benchmark_times_both_sides_and_writes_json(loss, sample, tiny_bert, tmp_path):
    command = [sys.executable, "scripts/benchmark/bench.py", "--data", sample / "dev.json"]
    command += ["--model_name_or_path", tiny_bert]
    command += ["--steps", "2", "--warmup", "1", "--repeats", "1", "--batch_size", "2", "--precision", "fp32"]
    command += ["--loss_type", loss, "--output", tmp_path / "bench.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    timings = json.loads((tmp_path / "bench.json").read_text())["timings"]["fp32"]
    assert {len(timings["training step"][side]) for side in ("baseline", "ours")} == {2}
    for what in ("forward", "backward", "optimizer", "evaluation pass", "preprocessing", "evaluator"):
        assert all(value > 0 for side in timings[what].values() for value in side)
        assert what in done.stdout
    assert timings["peak memory of training"]["ours"][0] > 0
    left = re.findall(r"(\d+) left", done.stdout)
    assert left == [str(number) for number in range(len(timings) - 1, 0, -1)]


def test_the_benchmark_prints_and_stores_each_row_when_it_is_measured(sample, tmp_path, monkeypatch, capsys):
    def stopped_after_two_rows(args, encoder):
        assert len(json.loads(Path(args.data).read_text())) == 3
        yield "fp32", "forward", {"baseline": [2.0, 4.0], "ours": [1.0, 1.0]}
        yield "fp32", "backward", {"baseline": [3.0], "ours": [2.0]}
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", stopped_after_two_rows)
    given = [
        "--data",
        str(sample / "dev.json"),
        "--model_name_or_path",
        "any",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    given += ["--device", "cpu", "--precision", "fp32", "--documents", "3", "--output", str(tmp_path / "bench.json")]
    monkeypatch.setattr("sys.argv", ["bench.py", *given])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    assert list(json.loads((tmp_path / "bench.json").read_text())["timings"]["fp32"]) == ["forward", "backward"]
    forward, backward = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert forward == ["forward", "3", "s", "1", "s", "3.0x", "9", "left"]
    assert backward == ["backward", "3", "s", "2", "s", "1.5x", "8", "left"]
