"""Mistakes at report.py and the scripts: each is told in one line before any work is done."""

import shutil
import subprocess

import publish
import pytest
from conftest import ROOT

import predict
import report
from hingeabl.errors import UserError


@pytest.mark.parametrize(
    ("mode", "option"),
    [
        ("--table=3", "--split=test"),
        ("--table=3", "--output=figures"),
        ("--figure=epochs", "--format=csv"),
        ("--status", "--format=json"),
        ("--html=page.html", "--pair=A 1 2"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(mode, option, trained):
    name, value = option.split("=")
    with pytest.raises(UserError, match=f"{name}: goes with --.* alone; leave it out"):
        report.main([mode, name, *value.split(), str(trained)])


def test_a_page_of_broken_pair_scores_is_refused_before_its_figures_are_drawn(finished, tmp_path, monkeypatch):
    run = tmp_path / "runs/seed_7"
    shutil.copytree(finished / "seed_7", run)
    (run / "pair_scores_dev.safetensors").write_bytes(b"cut off")
    monkeypatch.setattr(report, "figures_of", lambda *arguments: pytest.fail("drawn"))
    with pytest.raises(UserError, match=r"pair_scores_dev\.safetensors: does not hold the scores of pairs"):
        report.main(["--html", str(tmp_path / "page.html"), str(tmp_path / "runs")])
    assert not (tmp_path / "page.html").exists()


def test_an_output_that_ends_in_a_slash_is_a_folder(trained, sample, tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file"):
        predict.main(
            ["--load_path", str(trained), "--input", str(sample / "test.json"), "--output", f"{tmp_path}/a.ttl/"]
        )


def test_a_threshold_that_is_no_number_is_not_published(trained, tmp_path):
    with pytest.raises(UserError, match="--shift nan: pass a finite number"):
        publish.main([str(trained), "--folder", str(tmp_path / "out"), "--compress", "--shift", "nan"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["", "9", "33"])
def test_a_table_that_is_not_there_is_refused_before_anything_is_fetched(number):
    done = subprocess.run(["bash", str(ROOT / "scripts/table.sh"), number], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "choose one of 1 to 7, 3_later" in done.stderr


def test_the_doctor_takes_no_arguments():
    done = subprocess.run(["bash", str(ROOT / "scripts/doctor.sh"), "runs"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: runs: this program takes no arguments; leave them out\n"
