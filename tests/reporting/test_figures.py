"""The figures: what is drawn is what the runs' files say, by plain computations of its own."""

import json
import random
import shutil
import statistics

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from model_scores import lines_of
from safetensors.torch import load_file, save_file

import report
from evaluation import PATTERNS, official_evaluate, prediction_patterns
from hingeabl.data.relations import DEFAULT_REL2ID, RELATION_NAMES, load_rel2id
from hingeabl.errors import UserError
from hingeabl.files import sha256_of_file
from hingeabl.readers.documents import load_documents
from hingeabl.reporting import drawing
from hingeabl.reporting.drawing import BLUE, fit_text, loss_style, save_figure
from hingeabl.reporting.figures import BINS, FIGURES, training_triples
from hingeabl.reporting.records import read_runs

RELATIONS = load_rel2id()
NAMES = json.loads(RELATION_NAMES.read_text())
WRONG = ("FP", "FN_CRK", "FN_IRK")


def scored_pairs(documents, seed, patterns):
    """Tensors as train.py writes them: each pair with gold relations gets scores of the next of `patterns`, in turn."""
    chance, rows = torch.Generator().manual_seed(seed), []
    for number, document in enumerate(documents):
        gold = {}
        for label in document["labels"]:
            gold.setdefault((label["h"], label["t"]), []).append(RELATIONS[label["r"]])
        for (head, tail), positive in gold.items():
            scores = torch.rand(len(RELATIONS), generator=chance) - 2  # -2 to -1
            pattern = patterns[len(rows) % len(patterns)]
            scores[0] = 3 if pattern.startswith("FN") else 1
            scores[positive] += 4  # 2 to 3
            if pattern == "FN_IRK":
                scores[positive[0]] = -3
            if pattern == "FP":
                scores[1 + (positive[0] + 50) % 96] = 6
            rows.append((number, (head, tail), scores, positive))
    document, entities, scores, positives = zip(*rows, strict=True)
    labels = torch.zeros(len(rows), len(RELATIONS))
    for row, positive in enumerate(positives):
        labels[row, positive] = 1
    tensors = {
        "document": torch.tensor(document, dtype=torch.int32),
        "entities": torch.tensor(entities, dtype=torch.int32),
        "scores": torch.stack(scores),
    }
    return tensors, labels


def make_run(folder, sample, loss, seed, patterns, backbone="atlop"):
    """A finished run with scores of these patterns, test predictions of which some are wrong, three epochs."""
    folder = folder / f"{backbone}_{loss}" / f"seed_{seed}"
    folder.mkdir(parents=True)
    documents = {split: load_documents(sample / f"{split}.json") for split in ("train", "dev", "test")}
    for split in ("dev", "test"):
        tensors, labels = scored_pairs(documents[split], seed, patterns)
        save_file(tensors, folder / f"pair_scores_{split}.safetensors")
    counts = prediction_patterns(tensors["scores"], labels, tensors["scores"][:, 0])
    chance = random.Random(f"{loss} {seed}")
    predictions = [
        {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"] if chance.random() < 0.7 else wrong}
        for d in documents["test"]
        for x in d["labels"]
        for wrong in [chance.choice(["P17", "P6", "P569"])]
    ]
    predictions += [predictions[0], {**predictions[0], "title": "unknown"}]
    scores = official_evaluate(predictions, documents["test"], documents["train"]) | counts
    settings = {f"{split}_file": f"{split}.json" for split in documents}
    settings |= {"data_dir": str(sample), "backbone": backbone, "model_name_or_path": "hub/small"}
    settings["num_labels"] = 4
    config = {"seed": seed, "settings": settings, "loss": {"name": loss}}
    config["data"] = {split: sha256_of_file(sample / f"{split}.json") for split in documents}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "scores.json").write_text(json.dumps({"seed": seed, "best_epoch": 3, "dev": scores, "test": scores}))
    (folder / "result.json").write_text(json.dumps(predictions))
    (folder / "timing.json").write_text(json.dumps({"steps": 60, "seconds": 90.6}))
    records = [{"step": 10, "loss": 1.0}]
    records += [{"step": 20 * e, "epoch": e, "dev": {"f1": chance.random()}} for e in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.copy(DEFAULT_REL2ID, folder / "rel2id.json")
    return folder


ALL = ("correct", "FN_CRK", "FN_IRK", "FP")


@pytest.fixture(scope="module")
def folder(sample, tmp_path_factory):
    """Runs of three losses, two seeds each; HingeABL gets right every other pair that is FN_CRK under ATL."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 5):
        make_run(folder, sample, "atl", seed, ALL)
        make_run(folder, sample, "sat", seed, ("FP", "correct"))
        make_run(folder, sample, "hingeabl_released", seed, ("correct", "FN_CRK", "correct", "FP", "FP", "correct"))
    return folder


@pytest.fixture
def runs(folder):
    return read_runs([str(folder)])[0]


def chosen(runs, *names):
    return [run for run in runs if run.loss in names]


def by_hand(run, split="dev"):
    """{(title, head, tail): (scores, gold classes, pattern)} of a run."""
    documents = load_documents(f"{run.config['settings']['data_dir']}/{split}.json")
    tensors = load_file(run.folder / f"pair_scores_{split}.safetensors")
    found = {}
    rows = (tensors[name].tolist() for name in ("document", "entities", "scores"))
    for number, (head, tail), scores in zip(*rows, strict=True):
        document = documents[number]
        gold = {RELATIONS[x["r"]] for x in document["labels"] if (x["h"], x["t"]) == (head, tail)}
        predicted = {r for r in range(1, len(scores)) if scores[r] > scores[0]}
        others = max(scores[r] for r in range(1, len(scores)) if r not in gold)
        ranked = min(scores[r] for r in gold) > others
        missed = "FN_CRK" if ranked else "FN_IRK"
        pattern = "correct" if predicted == gold else "FP" if predicted else missed
        found[document["title"], head, tail] = scores, gold, pattern
    return found


def drawn_pair(axes):
    """[(relation, score, gold)] and the threshold that a panel shows."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    bars = [(bar.get_width(), to_hex(bar.get_facecolor()) == BLUE.lower()) for bar in axes.patches]
    [line] = axes.lines
    return [(name, *bar) for name, bar in zip(names, bars, strict=True)], line.get_xdata()[0]


def expected_bars(scores, gold):
    """The eight best relations (the gold ones among them), best first, by name."""
    order = sorted(range(1, len(scores)), key=lambda r: -scores[r])
    shown = gold | set([r for r in order if r not in gold][: 8 - len(gold)])
    property_of = {number: name for name, number in RELATIONS.items()}
    return [(NAMES[property_of[r]], scores[r], r in gold) for r in order if r in shown]


def check_panel(axes, scores, gold):
    bars, threshold = drawn_pair(axes)
    assert threshold == scores[0] and len(bars) == 8
    expected = expected_bars(scores, gold)
    assert [bar[1:] for bar in bars] == [bar[1:] for bar in expected]
    for (name, *_), (full, *_) in zip(bars, expected, strict=True):
        assert name == full or (name.endswith("…") and full.startswith(name[:-1]))


def test_figure_1_shows_the_pair_of_its_rule(runs):
    before, after = (by_hand(next(run for run in runs if run.loss == loss)) for loss in ("atl", "hingeabl_released"))
    mended = [key for key in before if before[key][2] == "FN_CRK" and after[key][2] == "correct"]
    assert 0 < len(mended) < sum(pattern == "FN_CRK" for _, _, pattern in before.values())

    def rank(key):
        scores, gold, _ = before[key]
        return len(gold), min(scores[r] for r in gold) - max(scores[r] for r in set(range(1, 97)) - gold)

    key = max(mended, key=rank)
    figure = FIGURES["1"](runs)
    for panel, found in zip(figure.axes, (before, after), strict=True):
        check_panel(panel, *found[key][:2])
    assert key[0] in figure.get_suptitle()
    assert "FN_CRK" in figure.axes[0].get_title("left") and "correct" in figure.axes[1].get_title("left")


def test_figure_1_shows_the_pair_and_split_asked_for(runs):
    found = by_hand(chosen(runs, "atl")[0], "test")
    key = list(found)[7]
    figure = FIGURES["1"](runs, pair=key, split="test")
    check_panel(figure.axes[0], *found[key][:2])


def test_figure_1_falls_back_to_a_pair_that_stays_wrong_and_then_says_what_is_missing(sample, tmp_path):
    make_run(tmp_path, sample, "sat", 1, ("FP", "FN_CRK"))
    make_run(tmp_path, sample, "hingeabl", 5, ("FP",))
    figure = FIGURES["1"](read_runs([str(tmp_path)])[0])
    assert "FN_CRK" in figure.axes[0].get_title("left") and "FP" in figure.axes[1].get_title("left")
    shutil.rmtree(tmp_path / "atlop_sat")
    make_run(tmp_path, sample, "sat", 1, ("FP",))
    with pytest.raises(UserError, match=r"atlop_sat/seed_1: on dev no pair is FN_CRK; pass --pair"):
        FIGURES["1"](read_runs([str(tmp_path)])[0])


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (("atl", "sat"), {}, "figure 1: .* no run of hingeabl_released is there; pass one too"),
        (("hingeabl_released",), {}, "figure 1: .* no run of atl is there"),
        (("atl", "hingeabl_released"), {"pair": ("no such", 0, 1)}, "'no such': is not the title of a dev document"),
        (("atl", "hingeabl_released"), {"pair": ("Sample dev 0", 0, 0)}, "'Sample dev 0' 0 0: runs keep the scores"),
    ],
)
def test_figure_1_names_what_it_lacks(runs, names, options, expected):
    with pytest.raises(UserError, match=expected):
        FIGURES["1"](chosen(runs, *names), **options)


def test_figure_2_shows_the_first_pair_with_most_relations_of_each_pattern(runs):
    found = by_hand(chosen(runs, "atl")[0])
    for panel, pattern in zip(FIGURES["2"](runs).axes, WRONG, strict=True):
        examples = [key for key in found if found[key][2] == pattern]
        key = max(examples, key=lambda key: len(found[key][1]))
        check_panel(panel, *found[key][:2])
        assert panel.get_title("left").startswith(f"{pattern} in {key[0]}, threshold ")


def test_figure_2_names_what_it_lacks(runs):
    with pytest.raises(UserError, match="no run of sat shows all of FP, FN_CRK, FN_IRK on dev"):
        FIGURES["2"](chosen(runs, "sat"))


def test_epochs_are_mean_and_deviation_over_seeds_in_the_losss_colour(runs):
    figure = FIGURES["epochs"](runs)
    [axes] = figure.axes
    drawn = lines_of(axes)
    losses = ["atl", "sat", "hingeabl_released"]
    assert list(drawn) == ["ATL", "SAT", "HingeABL"]
    assert figure.get_suptitle().endswith("\nmean ± standard deviation over seeds 1, 5")
    for loss, (epochs, mean), line, band in zip(losses, drawn.values(), axes.lines, axes.collections, strict=True):
        seeds = []
        for run in chosen(runs, loss):
            records = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
            seeds.append([100 * record["dev"]["f1"] for record in records if "epoch" in record])
        assert list(epochs) == [1, 2, 3]
        assert mean == pytest.approx([statistics.mean(values) for values in zip(*seeds, strict=True)])
        corners = {tuple(np.round(corner, 6)) for corner in band.get_paths()[0].vertices}
        for epoch, values in zip(epochs, zip(*seeds, strict=True), strict=True):
            for sign in (-1, 1):
                edge = statistics.mean(values) + sign * statistics.stdev(values)
                assert (epoch, round(edge, 6)) in corners
        assert line.get_color() == loss_style(loss)["color"]


@pytest.mark.parametrize("content", [None, '{"step": 10, "loss": 1.0}\n', '{"step": 1, "epoch": 1, "dev": {}}\n'])
def test_a_run_without_dev_scores_is_named(sample, tmp_path, content):
    path = make_run(tmp_path, sample, "atl", 1, ALL) / "metrics.jsonl"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"seed_1/metrics\.jsonl: is missing or has no dev scores by epoch; train"):
        FIGURES["epochs"](read_runs([str(tmp_path)])[0])


def test_pattern_shares_add_up_and_stand_beside_the_papers(runs, as_redocred):
    assert PATTERNS[1:] == WRONG
    figure = FIGURES["patterns"](runs)
    [axes] = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    losses = ["atl", "sat", "hingeabl_released"]
    assert names == ["ATL", "SAT", "HingeABL", "ATL, paper (BERT-base)"]
    assert figure.get_suptitle().endswith("\nmean over seeds 1, 5")
    found = np.array([[bar.get_width() for bar in container] for container in axes.containers])
    starts = np.array([[bar.get_x() for bar in container] for container in axes.containers])
    for column, loss in enumerate(losses):
        expected = np.zeros(3)
        for run in chosen(runs, loss):
            wrong = np.array([run.scores["dev"][pattern] for pattern in WRONG])
            expected += 100 * wrong / wrong.sum() / 2
        assert found[:, column] == pytest.approx(expected)
    assert found[:, 3] == pytest.approx([100 * n / 6940 for n in (2859, 3192, 889)])
    assert starts[1:] == pytest.approx(found.cumsum(axis=0)[:-1])


def test_patterns_of_an_unlabelled_dev_split_are_refused(sample, tmp_path):
    path = make_run(tmp_path, sample, "atl", 1, ALL) / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dev": {}}))
    with pytest.raises(UserError, match=r"seed_1/scores\.json: has no dev patterns"):
        FIGURES["patterns"](read_runs([str(tmp_path)])[0])


def test_f1_by_frequency_is_micro_f1_over_the_relations_of_each_bin(runs, sample):
    axes = FIGURES["frequency"](runs).axes[0]
    training = [x["r"] for d in load_documents(sample / "train.json") for x in d["labels"]]
    gold = {(d["title"], x["h"], x["t"], x["r"]) for d in load_documents(sample / "test.json") for x in d["labels"]}

    def bin_of(triple):
        return max(number for number, first in enumerate(BINS) if first <= training.count(triple[3]))

    bins = sorted({bin_of(triple) for triple in gold})
    assert len(bins) >= 2
    labels = [label.get_text() for label in axes.get_xticklabels()]
    sizes = [sum(bin_of(triple) == number for triple in gold) for number in bins]
    assert [label.split("\n")[1] for label in labels] == [f"({size} test)" for size in sizes]
    assert all(label.startswith(f"{BINS[number]}") for label, number in zip(labels, bins, strict=True))
    for container, loss in zip(axes.containers, ("atl", "sat", "hingeabl_released"), strict=True):
        seeds = []
        for run in chosen(runs, loss):
            entries = json.loads((run.folder / "result.json").read_text())
            found = {(e["title"], e["h_idx"], e["t_idx"], e["r"]) for e in entries if e["title"] != "unknown"}
            of_bin = [[{t for t in triples if bin_of(t) == number} for number in bins] for triples in (found, gold)]
            seeds.append([200 * len(p & g) / (len(p) + len(g)) for p, g in zip(*of_bin, strict=True)])
        line, _, [bars] = container.lines
        assert line.get_ydata() == pytest.approx([statistics.mean(values) for values in zip(*seeds, strict=True)])
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        assert lengths == pytest.approx([2 * statistics.stdev(values) for values in zip(*seeds, strict=True)])


def test_figure_frequency_needs_labels_of_test(sample, tmp_path):
    path = make_run(tmp_path, sample, "atl", 1, ALL) / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test": {}}))
    with pytest.raises(UserError, match="has no test scores, as its test file has no labels"):
        FIGURES["frequency"](read_runs([str(tmp_path)])[0])


def test_a_repeated_training_label_counts_once(sample, tmp_path):
    documents = load_documents(sample / "train.json")
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([document | {"labels": 2 * document["labels"]} for document in documents]))
    once, twice = (training_triples(str(file), sha256_of_file(file)) for file in (sample / "train.json", path))
    assert once == twice and once.total() > 10


@pytest.mark.parametrize(("split", "verb"), [("train", "trained"), ("test", "scored")])
def test_changed_data_is_refused(sample, tmp_path, split, verb):
    path = make_run(tmp_path, sample, "atl", 1, ALL) / "config.json"
    config = json.loads(path.read_text())
    config["data"][split] = "0" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"{split}\.json: the file that the run was {verb} on is gone or has changed"):
        FIGURES["frequency"](read_runs([str(tmp_path)])[0])


@pytest.mark.parametrize("name", ["1", "2", "epochs", "patterns", "frequency"])
def test_runs_that_are_missing_or_do_not_compare_are_refused(name, runs, sample, tmp_path):
    with pytest.raises(UserError, match=f"figure {name}: needs finished runs; pass"):
        FIGURES[name]([])
    make_run(tmp_path, sample, "atl", 1, ALL, backbone="docunet")
    with pytest.raises(UserError, match=f"figure {name}: the runs are of atlop and docunet; pass those of one"):
        FIGURES[name](runs + read_runs([str(tmp_path)])[0])


def test_texts_of_documents_are_drawn_as_they_stand(sample, tmp_path):
    assert fit_text("from $3\n million to  $5 million", 40) == r"from \$3 million to \$5 million"
    assert fit_text("a" * 50, 12) == "a" * 11 + "…" and fit_text("北京 Łódź", 20) == "□□ Łódź"
    for split in ("train", "dev", "test"):
        documents = load_documents(sample / f"{split}.json")
        for document in documents:
            document["vertexSet"] = [[{**m, "name": r"$\nonsense$ 北 {_^"} for m in e] for e in document["vertexSet"]]
        (tmp_path / f"{split}.json").write_text(json.dumps(documents))
    make_run(tmp_path / "runs", tmp_path, "atl", 1, ALL)
    figure = FIGURES["2"](read_runs([str(tmp_path / "runs")])[0])
    title = figure.axes[0].get_title("left")
    assert r"\$\nonsense\$ □" in title and not matplotlib.cbook.is_math_text(title)
    save_figure(figure, tmp_path, "2")  # a formula would raise here


@pytest.mark.slow
def test_every_figure_becomes_two_files_the_same_when_made_twice(folder, tmp_path, capsys):
    for name in FIGURES:
        report.main(["--figure", name, str(folder), "--output", str(tmp_path)])
        paths = [tmp_path / f"figure_{name}.{kind}" for kind in ("png", "pdf")]
        assert capsys.readouterr().out.split() == list(map(str, paths))
        found = [path.read_bytes() for path in paths]
        assert found[0].startswith(b"\x89PNG\r\n") and found[1].startswith(b"%PDF-")
        assert b"CreationDate" not in found[1]
        if name in ("2", "4", "frequency"):
            report.main(["--figure", name, str(folder), "--output", str(tmp_path / "again")])
            assert found == [(tmp_path / "again" / path.name).read_bytes() for path in paths]
            capsys.readouterr()
    assert len(list(tmp_path.glob("*.*"))) == 2 * len(FIGURES)


def test_neither_file_is_left_where_one_fails(tmp_path, monkeypatch):
    figure, _ = drawing.new_figure(1, 1)
    save = figure.savefig

    def fails(file, format, **rest):
        save(file, format=format, **rest)
        if format == "pdf":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fails)
    with pytest.raises(UserError, match="cannot be written"):
        save_figure(figure, tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--figure", "epochs", "--pair", "a", "0", "1"], "--pair: is not for figure epochs"),
        (["--figure", "3", "--split", "test"], "--split: is not for figure 3"),
        (["--figure", "1", "--pair", "a", "0", "one"], "--pair: 0 one: HEAD and TAIL must be numbers"),
        (["--figure", "patterns"], "figure patterns: needs finished runs"),
        (["--table", "3"], "PATH: is missing; pass folders of runs"),
    ],
)
def test_the_command_line_names_what_does_not_fit(arguments, expected):
    with pytest.raises(UserError, match=expected):
        report.main(arguments)
