"""studies/documents_992.sh: what it trains and in which order, what it skips, and what it writes from the records."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import check_documents_992
import make_documents_992
import pytest
from conftest import ROOT

from hingeabl.errors import UserError
from hingeabl.training.settings import parse_args

# Stand in for setup.sh, a training and Python in a clone of their own. A record is an empty file.
STAND_INS = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; PATH=$PWD/bin:$PATH',
    "scripts/run_bert.sh": """
        echo "$SIZE $(basename "$DOCUMENTS_992") $*" >>trained
        [ "$1 $3" != "${FAILS:-}" ] || exit 1
        mkdir -p at_once; mkdir "at_once/$$"; ls at_once | wc -l >>counts
        until [ "$(wc -l <counts)" -ge "${AT_ONCE:-1}" ]; do sleep 0.05; done; rmdir "at_once/$$"
    """,
    "bin/python": """#!/bin/bash
        echo "$*" >>called
        [ "$1" != report.py ] && exit 0
        case $2 in
        --record)
            record=$3/$(basename "$(dirname "$4")")/$(basename "$4").json
            mkdir -p "$(dirname "$record")"
            touch "$record"
            ;;
        --table) echo "<${*:3}>" ;;
        esac
    """,
}
SIX = ("afl", "hingeabl", "sat", "mean_sat", "balanced_softmax", "aml")
LATER = ("atgl", "ncrl", "pmtl", "amtl", "pn_risk")
PARTS = {  # of each part, what run_bert.sh gets: the loss, the seed, epochs, margin, and what its folders end in
    "first": [(loss, 1, 30, None, "") for loss in ("hingeabl_released", "atl")],
    "eight": [(loss, 1, 30, None, "") for loss in SIX],
    "length": [(loss, 1, n, None, f"_epochs_{n}") for n in (3, 10) for loss in ("hingeabl_released", "atl")],
    "margin": [("hingeabl_released", 1, 10, margin, f"_epochs_10_margin_{margin}") for margin in (1, 2, 10)],
    "seeds": [(loss, seed, 30, None, "") for seed in (5, 42, 66, 233) for loss in ("hingeabl_released", "atl", "afl")],
    "claims": [(loss, seed, 30, None, "") for seed in (5, 42) for loss in ("balanced_softmax", "sat")],
    "later": [(loss, 1, 30, None, "") for loss in LATER],
}


@pytest.fixture
def clone(tmp_path):
    """A folder with the script, and with stand-ins for what it calls."""
    clone = tmp_path / "clone"
    for name, content in STAND_INS.items():
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(0o755)
    (clone / "scripts/studies").mkdir()
    shutil.copy(ROOT / "scripts/studies/documents_992.sh", clone / "scripts/studies")
    (tmp_path / "documents").mkdir()
    return clone


def study(clone, *arguments, **variables):
    """Run the script; returns the finished process."""
    command = [
        "bash",
        str(clone / "scripts/studies/documents_992.sh"),
        *(arguments or ("--data", str(clone.parent / "documents"))),
    ]
    ours = ("PARTS", "EPOCHS", "RECORDS", "RUNS", "JOBS", "SIZE", "DOCUMENTS_992")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)


def lines_of(clone, name):
    return (clone / name).read_text().splitlines() if (clone / name).exists() else []


def training(loss, seed, epochs, margin, ending, runs="runs/documents_992"):
    """The line of a training."""
    more = f" --margin {margin}" if margin else ""
    output = f"--output_dir {runs}{ending}/bert_{loss}"
    return f"documents_992 documents {loss} --seeds {seed} --num_train_epochs {epochs}{more} {output}"


def test_every_run_is_trained_in_the_order_of_the_study_and_recorded_in_its_folder(clone):
    done = study(clone)
    assert done.returncode == 0, done.stderr
    runs = [run for part in PARTS.values() for run in part]
    assert len(runs) == 36 and lines_of(clone, "trained") == [training(*run) for run in runs]
    for loss, seed, _, _, ending in runs:
        assert (clone / f"results/documents_992{ending}/bert_{loss}/seed_{seed}.json").exists()
    assert len(list((clone / "results").rglob("seed_*.json"))) == len(runs)
    assert set(lines_of(clone, "counts")) == {"1"}


def test_parts_are_chosen_and_ordered_by_the_user_and_another_name_is_refused(clone):
    assert study(clone, PARTS="margin first").returncode == 0
    assert lines_of(clone, "trained") == [training(*run) for run in PARTS["margin"] + PARTS["first"]]
    done = study(clone, PARTS="eight all")
    assert done.returncode == 2 and "error: PARTS: all: choose from first, eight, length, margin" in done.stderr
    assert len(lines_of(clone, "trained")) == 5


def test_a_run_that_two_parts_ask_for_is_trained_once(clone):
    done = study(clone, PARTS="first length margin", EPOCHS="10")
    assert done.returncode == 0, done.stderr
    both = ("hingeabl_released", "atl")
    expected = [
        (loss, 1, epochs, None, ending)
        for epochs, ending in ((10, "_epochs_10"), (3, "_epochs_10_epochs_3"))
        for loss in both
    ]
    assert lines_of(clone, "trained") == [training(*run) for run in expected + PARTS["margin"]]


def test_a_run_that_has_a_record_is_not_trained_and_documents_are_checked_only_to_train(clone):
    for path in (
        "documents_992/bert_atl/seed_1.json",
        "documents_992_epochs_10_margin_2/bert_hingeabl_released/seed_1.json",
    ):
        (clone / "results" / path).parent.mkdir(parents=True)
        (clone / "results" / path).touch()
    assert study(clone, PARTS="first margin").returncode == 0
    left = [PARTS["first"][0], PARTS["margin"][0], PARTS["margin"][2]]
    assert lines_of(clone, "trained") == [training(*run) for run in left]
    assert f"scripts/studies/check_documents_992.py {clone.parent / 'documents'}" in lines_of(clone, "called")
    (clone / "called").unlink()
    assert study(clone, PARTS="first margin").returncode == 0
    assert len(lines_of(clone, "trained")) == 3 and "check_documents_992" not in (clone / "called").read_text()


def test_as_many_runs_as_asked_for_go_at_once(clone):
    assert study(clone, PARTS="eight", JOBS="3", AT_ONCE="3").returncode == 0
    assert max(map(int, lines_of(clone, "counts"))) == 3
    assert sorted(lines_of(clone, "trained")) == sorted(training(*run) for run in PARTS["eight"])


def test_a_training_that_fails_has_no_record_and_ends_the_script_behind_the_others(clone):
    done = study(clone, PARTS="first", FAILS="hingeabl_released 1")
    assert done.returncode != 0 and len(lines_of(clone, "trained")) == 2
    assert [path.parent.name for path in (clone / "results").rglob("seed_*.json")] == ["bert_atl"]
    assert study(clone, PARTS="first").returncode == 0
    assert lines_of(clone, "trained")[2:] == [training(*PARTS["first"][0])]


def test_a_short_try_has_folders_of_its_own(clone):
    assert study(clone, PARTS="first", EPOCHS="1", RECORDS="runs/try", RUNS="runs/kept").returncode == 0
    tried = [(loss, seed, 1, margin, ending, "runs/kept") for loss, seed, _, margin, ending in PARTS["first"]]
    assert lines_of(clone, "trained") == [training(*run) for run in tried]
    assert (clone / "runs/try/tables.md").exists() and not (clone / "results").exists()
    assert study(clone, PARTS="first", EPOCHS="2").returncode == 0
    assert (clone / "results/documents_992_epochs_2/bert_atl/seed_1.json").exists()


@pytest.mark.parametrize("there", [True, False])
def test_runs_are_scored_with_docgnres_labels_where_they_are_there(clone, there):
    if there:
        (clone.parent / "documents" / "test_docgnre.json").touch()
    assert study(clone, PARTS="first").returncode == 0
    also = f" --also {clone.parent}/documents/test_docgnre.json" if there else ""
    for loss in ("hingeabl_released", "atl"):
        assert f"report.py --record results/documents_992 runs/documents_992/bert_{loss}/seed_1{also}" in lines_of(
            clone, "called"
        )


def test_tables_are_printed_and_written_below_a_sentence_on_the_documents(clone):
    done = study(clone, PARTS="first margin")
    sentence, *tables = (clone / "results/documents_992/tables.md").read_text().split("\n\n")
    assert "992 of the paper's 3,053 training documents, which are no random third of them" in sentence
    assert sentence.endswith("Ign F1 ignores the facts of these 992 documents only.") and "\n" not in sentence
    folders = [
        f"results/documents_992{ending}" for ending in ("", *(f"_epochs_10_margin_{margin}" for margin in (1, 2, 10)))
    ]
    assert tables == [
        "<all --format markdown results/documents_992>",
        f"<runs --format markdown {' '.join(folders)}>\n",
    ]
    assert "\n\n".join([sentence, *tables]) in done.stdout


def test_figures_are_drawn_with_the_shorter_trainings_and_those_on_400_documents(clone):
    for name in ("documents_400/bert_atl", "documents_400/bert_sat", "documents_400_epochs_30/bert_hingeabl_released"):
        (clone / "results" / name).mkdir(parents=True)
    assert study(clone, PARTS="first length margin").returncode == 0
    drawn = [line.split()[2:] for line in lines_of(clone, "called") if line.startswith("report.py --figure")]
    assert drawn[:2] == [
        [name, "results/documents_992", "--output", "results/documents_992"] for name in ("epochs", "patterns")
    ]
    both = [
        f"results/documents_992{e}/bert_{loss}"
        for e in ("", "_epochs_3", "_epochs_10")
        for loss in ("hingeabl_released", "atl")
    ]
    old = ["results/documents_400/bert_atl", "results/documents_400_epochs_30/bert_hingeabl_released"]
    assert drawn[2:] == [["length", *both, *old, "--output", "results/documents_992"]]


def test_without_a_record_of_thirty_epochs_it_says_what_the_tables_lack(clone):
    done = study(clone, PARTS="length")
    assert done.returncode == 0 and "results/documents_992/: no records yet" in done.stdout
    assert not (clone / "results/documents_992").exists()


@pytest.mark.parametrize("arguments", [["documents"], ["--data"], ["--data", "documents", "more"]])
def test_a_wrong_call_prints_the_usage(clone, arguments):
    done = study(clone, *arguments)
    assert done.returncode == 2 and done.stderr == "usage: bash scripts/studies/documents_992.sh --data FOLDER\n"


def test_a_run_has_the_papers_settings_but_for_encoder_and_documents(clone):
    for name in ("run_bert.sh", "tools/size.sh"):
        (clone / "scripts" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    environment = os.environ | {"SIZE": "documents_992", "DOCUMENTS_992": "some/where"}
    subprocess.run(["bash", str(clone / "scripts/run_bert.sh"), "atl", "--seeds", "5"], env=environment, check=True)
    *first, call = lines_of(clone, "called")
    assert first == ["scripts/studies/check_documents_992.py some/where", "scripts/tools/fetch.py encoder"]
    args, plain = parse_args(call.split()[1:]), parse_args(["--output_dir", "runs/documents_992/bert_atl"])
    different = {name: value for name, value in vars(args).items() if value != vars(plain)[name]}
    assert different == {
        "data_dir": "some/where",
        "train_file": "train_part.json",
        "model_name_or_path": "dataset/encoders/all-MiniLM-L6-v2",
        "loss_type": "atl",
        "seeds": [5],
    }


def check(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["check_documents_992.py", *map(str, arguments)])
    check_documents_992.main()


@pytest.mark.parametrize("name", ["train_part.json", "dev_revised.json", "test_revised.json"])
def test_other_documents_than_the_studys_are_refused_with_the_remedy(tmp_path, monkeypatch, capsys, name):
    content = {name: name.encode() for name in check_documents_992.DOCUMENTS_992_CHECKSUMS}
    sums = {each: hashlib.sha256(text).hexdigest() for each, text in content.items()}
    monkeypatch.setattr(check_documents_992, "DOCUMENTS_992_CHECKSUMS", sums)
    for each, text in content.items():
        (tmp_path / each).write_bytes(text)
    check(monkeypatch, tmp_path)
    assert capsys.readouterr().out == f"the study's documents: {tmp_path}/\n"
    (tmp_path / name).write_bytes(b"[]")
    with pytest.raises(UserError, match=rf"{name}: is not the file of the study \(other checksum\); replace it"):
        check(monkeypatch, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: no such file; docs/data\.md#a-third-of-the-training-documents"):
        check(monkeypatch, tmp_path)


@pytest.mark.skipif(
    not Path(os.environ.get("REDOCRED_DIR", ""), "train_part.json").exists(),
    reason="REDOCRED_DIR names no folder with train_part.json",
)
def test_the_documents_of_the_study_are_known(monkeypatch, capsys):
    check(monkeypatch, os.environ["REDOCRED_DIR"])
    assert "the study's documents" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"usage: python scripts/studies/check_documents_992\.py FOLDER"):
        check(monkeypatch)


@pytest.mark.skipif(
    not Path(os.environ.get("REDOCRED_DIR", ""), "train_part.json").exists(),
    reason="REDOCRED_DIR names no folder with train_part.json",
)
def test_the_studys_documents_are_found_among_others(tmp_path, monkeypatch):
    files = Path(os.environ["REDOCRED_DIR"])
    part, others = (json.loads((files / name).read_text()) for name in ("train_part.json", "dev_revised.json"))
    for name in ("dev_revised.json", "test_revised.json"):
        shutil.copy(files / name, tmp_path / name)
    (tmp_path / "train_revised.json").write_text(json.dumps(others[:300] + part[::-1] + others[300:]))
    monkeypatch.setattr(make_documents_992, "has_checksum", lambda *_: True)  # the whole training file is not at hand
    monkeypatch.setattr(make_documents_992, "ROOT", tmp_path)
    shutil.copytree(ROOT / "meta", tmp_path / "meta")
    monkeypatch.setattr("sys.argv", ["make_documents_992.py", str(tmp_path)])
    make_documents_992.main()
    check(monkeypatch, tmp_path / "dataset/documents_992")  # byte for byte
    (tmp_path / "train_revised.json").write_text(json.dumps(part[1:]))
    monkeypatch.setattr("sys.argv", ["make_documents_992.py", str(tmp_path)])
    with pytest.raises(UserError, match="documents in it differ from those that were used"):
        make_documents_992.main()


def test_without_the_official_files_the_studys_documents_are_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_documents_992.py", str(tmp_path)])
    with pytest.raises(UserError, match=r"train_revised\.json: no such file; python scripts/tools/fetch\.py redocred"):
        make_documents_992.main()
    (tmp_path / "train_revised.json").write_text("[]")
    with pytest.raises(UserError, match="is not the official Re-DocRED file"):
        make_documents_992.main()
