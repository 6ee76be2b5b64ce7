"""What reports say of losses with one seed or several, and of other documents than the paper's."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import simulate_tests
from conftest import ROOT
from scipy.stats import t, ttest_ind
from test_figures import ALL, make_run

import report
from hingeabl.data import checksums
from hingeabl.errors import UserError
from hingeabl.files import sha256_of_file
from hingeabl.reporting.comparisons import counts_of, verdict
from hingeabl.reporting.drawing import legend_below, new_figure, styled
from hingeabl.reporting.figures import FIGURES
from hingeabl.reporting.records import count_by_document, read_record, read_runs
from hingeabl.reporting.significance import Comparison, Counts, compare, f1_of_seeds, spread_of_seeds, with_seed_noise

DOCUMENTS_992 = ROOT / "results/documents_992"


def printed(capsys, *arguments):
    report.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def random_counts(seeds, start, documents=60):
    chance = np.random.default_rng(start)
    gold = np.full(documents, 20)
    predicted = chance.integers(15, 20, (seeds, documents))
    return Counts(chance.integers(5, 15, (seeds, documents)), predicted, gold)


@pytest.fixture(scope="module")
def mixed(sample, tmp_path_factory):
    """atl with two seeds, sat with one of them."""
    folder = tmp_path_factory.mktemp("mixed")
    for loss, seed in (("atl", 1), ("atl", 5), ("sat", 1)):
        make_run(folder, sample, loss, seed, ALL)
    return folder


def test_the_interval_of_one_seed_holds_the_spread_measured_over_seeds_of_other_losses():
    several = [random_counts(2, 1), random_counts(3, 2)]
    f1 = [[2 * c.sum() / (p.sum() + 1200) for c, p in zip(x.correct, x.predicted, strict=True)] for x in several]
    squares = sum(statistics.variance(scores) * (len(scores) - 1) for scores in f1)
    first, second = random_counts(1, 3), random_counts(1, 4)
    spread = spread_of_seeds(map(f1_of_seeds, [first, *several, second]))
    assert spread.freedom == 3 and spread.deviation == pytest.approx(math.sqrt(squares / 3))
    plain = compare(first, second)
    wide = with_seed_noise(plain, spread, (1, 1))
    noise = t.ppf(0.975, 3) * math.sqrt(squares / 3) * math.sqrt(2)
    assert wide.difference - wide.low == pytest.approx(math.hypot(plain.difference - plain.low, noise))
    assert wide.high - wide.difference == pytest.approx(math.hypot(plain.high - plain.difference, noise))
    assert spread_of_seeds(map(f1_of_seeds, [first, second])) is None


def test_a_clear_difference_of_one_seed_is_open_where_no_spread_over_seeds_is_known():
    worse = random_counts(1, 1)
    better = Counts(worse.correct + 4, worse.predicted, worse.gold)
    found = compare(worse, better)
    assert found.low > 0 and not found.seed_noise and verdict(found, 0.001) == "open: one seed"
    twice = [Counts(x.correct.repeat(2, 0), x.predicted.repeat(2, 0), x.gold) for x in (worse, better)]
    assert verdict(compare(*twice), 0.001) == "higher"


def test_the_interval_over_seeds_is_students_of_the_differences_seed_by_seed():
    first, second = random_counts(4, 1), random_counts(4, 2)
    f1 = [2 * x.correct.sum(1) / (x.predicted.sum(1) + x.gold.sum()) for x in (first, second)]
    differences = (f1[1] - f1[0]).tolist()
    half = t.ppf(0.975, 3) * statistics.stdev(differences) / 2
    low, high = compare(first, second).over_seeds
    assert (low + high) / 2 == pytest.approx(statistics.mean(differences)) and (high - low) / 2 == pytest.approx(half)
    fewer = Counts(second.correct[:2], second.predicted[:2], second.gold)
    assert compare(first, fewer).over_seeds is not None and compare(first, random_counts(1, 2)).over_seeds is None


def test_losses_of_other_seeds_are_not_compared_seed_by_seed():
    first, second = random_counts(2, 1), random_counts(2, 2)
    turned = Counts(second.correct[::-1], second.predicted[::-1], second.gold)
    found, again = (compare(first, x, same_seeds=False).over_seeds for x in (second, turned))
    assert found == pytest.approx(again)
    f1 = [2 * x.correct.sum(1) / (x.predicted.sum(1) + x.gold.sum()) for x in (first, second)]
    assert found == pytest.approx(ttest_ind(f1[1], f1[0], equal_var=False).confidence_interval(0.95))


def test_rows_that_share_no_seed_have_welchs_interval_and_a_note_says_so(sample, tmp_path, capsys):
    for loss, seed in (("atl", 1), ("atl", 2), ("sat", 3), ("sat", 4)):
        make_run(tmp_path, sample, loss, seed, ALL)
    runs = read_runs([str(tmp_path)])[0]
    f1 = [f1_of_seeds(counts_of([run for run in runs if run.loss == loss])) for loss in ("sat", "atl")]
    found = json.loads(printed(capsys, "--table", 3, tmp_path, "--format", "json"))
    [comparison] = found["comparisons"]
    assert comparison["seeds"] == [[1, 2], [3, 4]]
    assert comparison["over_seeds"] == pytest.approx(ttest_ind(*f1, equal_var=False).confidence_interval(0.95))
    assert any("Welch's interval" in note for note in found["notes"])
    macro = [[run.scores["test"]["macro_f1"] * 100 for run in runs if run.loss == loss] for loss in ("sat", "atl")]
    found = json.loads(printed(capsys, "--table", 7, tmp_path, "--format", "json"))
    [pair] = found["over_seeds"]
    bounds = [pair["macro_f1"]["low"], pair["macro_f1"]["high"]]
    assert (pair["first"], pair["second"], pair["seeds"]) == ("atl", "sat", [[1, 2], [3, 4]])
    assert bounds == pytest.approx(ttest_ind(*macro, equal_var=False).confidence_interval(0.95))
    assert any("Welch's for rows" in note for note in found["notes"])


def test_a_difference_is_noise_where_its_interval_over_seeds_holds_0():
    clear = Comparison(0.02, 0.01, 0.03, 0.001, True, (0.005, 0.035))
    assert verdict(clear, 0.001) == "higher"
    assert verdict(dataclasses.replace(clear, over_seeds=(-0.005, 0.045)), 0.001) == "within the noise"


@pytest.mark.slow
def test_simulated_seeds_vary_as_measured_and_a_record_gives_their_rates():
    correct, predicted, gold = count_by_document(read_record(ROOT / "results/documents_992/bert_atl/seed_1.json"))
    base, chance = Counts(correct[None], predicted[None], gold), np.random.default_rng(1)
    drawn = simulate_tests.draw(base, simulate_tests.find_effect(base, chance), 2000, chance)
    f1 = f1_of_seeds(drawn)
    assert f1.std() == pytest.approx(simulate_tests.DEVIATION, abs=5e-4)
    assert f1.mean() == pytest.approx(f1_of_seeds(base)[0], abs=5e-3)


def test_losses_are_compared_on_the_seeds_that_both_have_and_each_row_names_its_own(mixed, capsys):
    found = json.loads(printed(capsys, "--table", 3, mixed, "--format", "json"))
    [comparison] = found["comparisons"]
    assert comparison["seeds"] == [[1], [1]]
    f1 = {run.loss: run.scores["test"]["f1"] for run in read_runs([str(mixed)])[0] if run.seed == 1}
    assert comparison["difference"] == pytest.approx(f1["sat"] - f1["atl"], abs=0.001)
    assert not any(row["f1"]["best"] for row in found["rows"])
    text = printed(capsys, "--table", 3, mixed)
    assert re.search(r"\nATL +1, 5 ", text) and re.search(r"\nSAT +1 ", text)
    assert "seeds as each row says" in text and "none is marked as the best" in text
    assert "With one seed, seed noise is added to the bootstrap" in text and "below 1." not in text


@pytest.mark.parametrize(("number", "keys"), [(3, ["ign_f1"]), (4, ["wrong", "fn_of_wrong", "crk_of_fn"])])
def test_other_scores_than_f1_are_compared_over_seeds(mixed, capsys, number, keys):
    found = json.loads(printed(capsys, "--table", number, mixed, "--format", "json"))
    cells = {row["name"]: row for row in found["rows"]}
    one_seed = json.loads(printed(capsys, "--table", number, *mixed.glob("*/seed_1"), "--format", "json"))
    of_seed_1 = {row["name"]: row for row in one_seed["rows"]}
    assert one_seed["over_seeds"] == []
    [pair] = found["over_seeds"]
    assert (pair["first"], pair["second"], pair["seeds"]) == ("atl", "sat", [[1], [1]])
    assert [key for key in pair if isinstance(pair[key], dict)] == keys
    for key in keys:
        half = t.ppf(0.975, 1) * cells["atl"][key]["std"] * math.sqrt(2)
        difference = of_seed_1["sat"][key]["mean"] - of_seed_1["atl"][key]["mean"]
        assert pair[key]["difference"] == pytest.approx(difference)
        assert pair[key]["high"] - difference == difference - pair[key]["low"] == pytest.approx(half)
    text = printed(capsys, "--table", number, mixed)
    assert "Differences over seeds" in text and re.search(r"\nSAT against ATL +1 +[+-]", text)


def test_other_scores_of_shared_seeds_have_students_interval(sample, tmp_path, capsys):
    for loss, seed in itertools.product(("atl", "sat"), (1, 5, 42)):
        make_run(tmp_path, sample, loss, seed, ALL)
    macro = {(run.loss, run.seed): 100 * run.scores["test"]["macro_f1"] for run in read_runs([str(tmp_path)])[0]}
    differences = [macro["sat", seed] - macro["atl", seed] for seed in (1, 5, 42)]
    [pair] = json.loads(printed(capsys, "--table", 7, tmp_path, "--format", "json"))["over_seeds"]
    half = t.ppf(0.975, 2) * statistics.stdev(differences) / math.sqrt(3)
    mean = statistics.mean(differences)
    assert pair["macro_f1"] == pytest.approx({"difference": mean, "low": mean - half, "high": mean + half})
    assert re.search(r"\nSAT against ATL +[+-]", printed(capsys, "--table", 7, tmp_path))


def test_of_one_seed_each_no_test_over_seeds_and_no_deviation_is_spoken_of(mixed, capsys):
    text = printed(capsys, "--table", 3, *mixed.glob("*/seed_1"))
    assert "With 1 and 1 seeds" not in text and "With one seed, the interval is over documents alone." in text
    assert ", seed 1\n" in text and "standard deviation" not in text


def test_of_different_seeds_each_curve_has_its_own_in_the_legend_and_a_band_where_there_are_several(mixed):
    figure = FIGURES["epochs"](read_runs([str(mixed)])[0])
    [axes] = figure.axes
    assert [line.get_label() for line in axes.lines] == ["ATL, seeds 1, 5", "SAT, seed 1"]
    assert len(axes.collections) == 1 and figure.get_suptitle().endswith("\nmean ± standard deviation over seeds")
    names = [label.get_text() for label in FIGURES["patterns"](read_runs([str(mixed)])[0]).axes[0].get_yticklabels()]
    assert names[:2] == ["ATL, seeds 1, 5", "SAT, seed 1"]


def test_a_figure_of_one_seed_speaks_of_no_deviation(mixed):
    runs = [run for run in read_runs([str(mixed)])[0] if run.seed == 1]
    for name in ("epochs", "patterns", "frequency", "length"):
        assert "deviation" not in FIGURES[name](runs).get_suptitle()
        assert "mean" not in FIGURES[name](runs).get_suptitle()
        assert name == "length" or FIGURES[name](runs).get_suptitle().endswith("\nseed 1")
    others = [run for run in read_runs([str(mixed)])[0] if (run.loss, run.seed) in (("atl", 5), ("sat", 1))]
    assert "seed" not in FIGURES["epochs"](others).get_suptitle()


@pytest.mark.parametrize(("label", "columns"), [("ATL", 3), ("AFL, seeds 1, 5, 42, 66, 233", 2), ("a loss " * 9, 1)])
def test_a_legend_has_as_many_columns_as_fit_the_figures_width(label, columns):
    figure, [[axes]] = new_figure(6.5, 4.2)
    for _ in range(6):
        axes.plot([0, 1], [0, 1], label=label)
    styled(legend_below)(figure)
    figure.draw_without_rendering()
    [legend] = figure.legends
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert len({round(box.x0) for box in boxes}) == columns
    assert legend.get_window_extent().x0 >= 0 and max(box.x1 for box in boxes) <= figure.bbox.width


def test_figure_frequency_leaves_out_runs_of_unknown_losses_whatever_they_lack(sample, tmp_path):
    make_run(tmp_path, sample, "atl", 1, ALL)
    path = make_run(tmp_path, sample, "of_another_clone", 1, ALL) / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test": {}}))
    [axes] = FIGURES["frequency"](read_runs([str(tmp_path)])[0]).axes
    assert len(axes.containers) == 1


def test_the_highest_marker_of_figure_frequency_is_drawn_whole(mixed):
    [axes] = FIGURES["frequency"](read_runs([str(mixed)])[0]).axes
    assert axes.containers and not any(container.lines[0].get_clip_on() for container in axes.containers)


def test_a_line_over_lengths_is_of_the_seeds_that_all_its_points_have(sample, tmp_path):
    for steps, seeds in ((60, (1, 5)), (20, (1,))):
        for seed in seeds:
            path = make_run(tmp_path / str(steps), sample, "atl", seed, ALL) / "timing.json"
            path.write_text(json.dumps({"steps": steps}))
    runs, _ = report.read_all_runs([str(tmp_path)])
    axes = FIGURES["length"](runs).axes[0]
    line, [label] = axes.lines[0], axes.get_legend_handles_labels()[1]
    of_seed = {run.timing["steps"]: 100 * run.scores["test"]["f1"] for run in runs if run.seed == 1}
    assert dict(zip(*line.get_data(), strict=True)) == pytest.approx(of_seed) and ", seed 1" in label
    others = [run for run in runs if (run.timing["steps"], run.seed) in ((60, 5), (20, 1))]
    axes = FIGURES["length"](others).axes[0]
    [label] = axes.get_legend_handles_labels()[1]
    assert axes.lines[0].get_linestyle() == "None" and "20 steps: seed 1; 60 steps: seed 5" in label


@pytest.mark.parametrize("number", [1, 3, 4, 7, "3_later"])
def test_published_figures_stand_beside_re_docreds_documents_alone(mixed, capsys, number):
    table = printed(capsys, "--table", number, mixed, "--format", "json")
    assert not re.search(r'"paper": \d', table) and "ATGL" not in table
    text = printed(capsys, "--table", number, mixed)
    assert not re.search(r"\bpaper\b", text) and "diff." not in text.split("Differences")[0]
    assert "of train.json, dev.json, test.json" in text


def test_the_pattern_figure_has_the_papers_bar_for_re_docreds_documents_alone(mixed):
    def names(folder):
        [axes] = FIGURES["patterns"](read_runs([str(folder)])[0]).axes
        return [label.get_text() for label in axes.get_yticklabels()]

    assert "ATL, paper (BERT-base)" not in names(mixed) and "ATL, paper (BERT-base)" in names(DOCUMENTS_992)


def test_the_studies_own_documents_are_marked_as_not_the_papers(capsys):
    for name, count in (("documents_992", "992"), ("documents_400_epochs_30", "400")):
        text = printed(capsys, "--table", 7, ROOT / "results" / name)
        assert "paper" in text and re.search(rf"Not the paper's data: .*{count}", text)


@pytest.mark.parametrize("number", [5, 6])
def test_tables_of_data_are_named_by_files_that_are_not_re_docreds(sample, capsys, monkeypatch, number):
    files = [sample / f"{split}.json" for split in ("train", "dev", "test")]
    text = printed(capsys, "--table", number, *files)
    assert "Re-DocRED" not in text and "paper" not in text and "train.json, dev.json, test.json" in text
    own = {path.stem: sha256_of_file(path) for path in files}
    monkeypatch.setattr("hingeabl.reporting.names.REDOCRED", own)
    assert "Re-DocRED" in printed(capsys, "--table", number, *files)


def test_the_documents_known_by_their_checksums_are_those_that_the_scripts_make(tmp_path, monkeypatch):
    import make_sample

    monkeypatch.setattr("sys.argv", ["make_sample.py", str(tmp_path)])
    make_sample.main()
    for split, wanted in checksums.SAMPLE.items():
        assert checksums.has_checksum(tmp_path / f"{split}.json", wanted)
    for name, known in (("documents_400", checksums.DOCUMENTS_400), ("documents_992", checksums.DOCUMENTS_992)):
        for path in (ROOT / "results" / name).rglob("seed_*.json"):
            data = json.loads(path.read_text())["config"]["data"]
            assert {split: data[split] for split in known} == known


@pytest.fixture
def moved(sample, tmp_path):
    """A run trained in a folder of its own, with a relative path to its documents."""
    shutil.copytree(sample, tmp_path / "work/data")
    folder = make_run(tmp_path / "work/runs", sample, "atl", 1, ALL)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["data_dir"] = "data"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_runs_documents_are_found_from_any_folder(moved, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(report, "figures_of", lambda *_: "")  # drawing them takes seconds
    report.main(["--html", "page.html", str(moved)])
    assert Path("page.html").stat().st_size > 10_000
    (tmp_path / "elsewhere/data").mkdir()  # another file of the name does not hide the run's
    Path("data/dev.json").write_text("[]")
    report.main(["--html", "page.html", str(moved)])


def test_a_runs_documents_are_found_in_the_clone(moved, tmp_path, monkeypatch):
    shutil.move(tmp_path / "work/data", tmp_path / "clone/data")
    monkeypatch.setattr("hingeabl.reporting.records.ROOT", tmp_path / "clone")
    monkeypatch.setattr(report, "figures_of", lambda *_: "")
    report.main(["--html", str(tmp_path / "page.html"), str(moved)])


@pytest.mark.parametrize("missing", ["data/dev.json", "runs/atlop_atl/seed_1/pair_scores_dev.safetensors"])
def test_what_a_page_needs_is_checked_before_anything_is_drawn(moved, tmp_path, monkeypatch, missing):
    (tmp_path / "work" / missing).unlink()
    monkeypatch.setattr(report, "tables_of", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=rf"{Path(missing).name}: (the file|no such file)"):
        report.main(["--html", str(tmp_path / "page.html"), str(moved)])


@pytest.mark.parametrize("name", ["documents_992/figure_epochs", "documents_400_epochs_30/figure_patterns"])
def test_a_stored_figure_comes_out_of_its_command(tmp_path, name):
    from matplotlib import __version__

    if f"Matplotlib version{__version__}".encode() not in (ROOT / f"results/{name}.png").read_bytes():
        pytest.skip("the stored figure was drawn by another matplotlib, whose bytes differ")
    study, figure = name.split("/figure_")
    report.main(["--figure", figure, str(ROOT / "results" / study), "--output", str(tmp_path)])
    for kind in ("png", "pdf"):
        assert (tmp_path / f"figure_{figure}.{kind}").read_bytes() == (ROOT / f"results/{name}.{kind}").read_bytes()


def test_runs_of_a_forks_model_have_rows_behind_the_papers_models_and_figures(sample, tmp_path, capsys):
    for backbone in ("mine", "atlop", "another"):
        make_run(tmp_path, sample, "atl", 1, ALL, backbone)
    rows = json.loads(printed(capsys, "--table", 2, tmp_path, "--format", "json"))["rows"]
    assert [row["name"] for row in rows] == ["atlop/atl", "another/atl", "mine/atl"]
    assert "\nmine, ATL " in printed(capsys, "--table", 2, tmp_path / "mine_atl")
    for path, size in zip(sorted(tmp_path.glob("*/seed_1/config.json")), (256, 768, 1024), strict=True):
        config = json.loads(path.read_text())
        config["settings"]["emb_size"] = size  # a model's own setting
        path.write_text(json.dumps(config))
    assert "differ in" not in printed(capsys, "--table", 2, tmp_path)
    runs, _ = read_runs([str(tmp_path / "mine_atl")])
    assert [table.number for table in report.tables_of(runs, [])] == [2, "thresholds"]
    for name in ("epochs", "patterns", "frequency"):
        assert FIGURES[name](runs).get_suptitle().startswith("mine on small;")


def test_the_figure_of_confidence_leaves_out_runs_of_a_loss_that_is_not_registered(tmp_path, capsys):
    record = json.loads((ROOT / "results" / "model" / "seed_1.json").read_text())
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    record["config"]["loss"]["name"] = "of_another_clone"
    (tmp_path / "seed_2.json").write_text(json.dumps(record))
    runs, _ = read_runs([str(tmp_path)])
    assert [run.loss for run in runs] == ["hingeabl_released", "of_another_clone"]
    [axes] = FIGURES["reliability"](runs).axes
    assert [text.get_text().split(",")[0] for text in axes.get_legend().get_texts()] == ["HingeABL"]
    report.main(["--table", "3", str(tmp_path)])
    assert "none of the losses in losses.py, left out: of_another_clone" in capsys.readouterr().out
    (tmp_path / "seed_1.json").unlink()
    with pytest.raises(UserError, match=r"no table takes these runs \(losses: of_another_clone\)"):
        report.main(["--table", "all", str(tmp_path)])


def test_the_figure_of_confidence_is_of_one_experiment(tmp_path):
    record = json.loads((ROOT / "results" / "model" / "seed_1.json").read_text())
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    record["config"]["loss"]["name"], record["config"]["data"]["test"] = "atl", "0" * 64
    (tmp_path / "seed_2.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="differ in encoder or data"):
        FIGURES["reliability"](read_runs([str(tmp_path)])[0])


def test_the_figure_of_confidence_names_models_where_there_are_several(tmp_path):
    record = json.loads((ROOT / "results" / "model" / "seed_1.json").read_text())
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    [axes] = FIGURES["reliability"](read_runs([str(tmp_path)])[0]).axes
    assert [text.get_text().split(",")[0] for text in axes.get_legend().get_texts()] == ["HingeABL"]
    assert not axes.spines["top"].get_visible()
    record["config"]["settings"]["backbone"] = "docunet"
    (tmp_path / "seed_2.json").write_text(json.dumps(record))
    [axes] = FIGURES["reliability"](read_runs([str(tmp_path)])[0]).axes
    assert {text.get_text().split(",")[0] for text in axes.get_legend().get_texts()} == {"ATLOP", "DocuNet"}
