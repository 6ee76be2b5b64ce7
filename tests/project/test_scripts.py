"""The sample corpus, and the checks on what is fetched."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import fetch
import pytest
from conftest import ROOT
from make_sample import make_sample

from hingeabl.errors import UserError
from hingeabl.readers.documents import load_documents
from prepro import read_docred, statistics


def test_the_sample_corpus_is_deterministic_and_like_real_documents(tmp_path, minilm_tokenizer, rel2id):
    corpus = make_sample()
    assert corpus == make_sample() and corpus != make_sample(seed=1)
    titles = [document["title"] for documents in corpus.values() for document in documents]
    assert len(set(titles)) == len(titles)
    for split, documents in corpus.items():
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(documents))
        found = statistics(load_documents(path, rel2id, unique_titles=True))
        assert 93 < found["NA %"] < 95 and found["relations seen"] >= 25 and found["most relations on one pair"] > 1
        features = read_docred(path, minilm_tokenizer, rel2id)
        lengths = [len(feature["input_ids"]) for feature in features]
        assert 0 < sum(length > 512 for length in lengths) < len(lengths) / 5
        mentions = sum(len(entity) for feature in features for entity in feature["entity_pos"])
        assert mentions > 1.5 * sum(len(feature["entity_pos"]) for feature in features)
        across = [
            label
            for document in documents
            for label in document["labels"]
            if not {m["sent_id"] for m in document["vertexSet"][label["h"]]}
            & {m["sent_id"] for m in document["vertexSet"][label["t"]]}
        ]
        assert len(across) > 10


def test_a_file_is_known_by_its_sha_256_and_by_its_git_blob_name(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"hello\n")
    assert fetch.has_checksum(text, "ce013625030ba8dba906f756967f9e9ca394464a")  # git hash-object
    assert fetch.has_checksum(text, hashlib.sha256(b"hello\n").hexdigest())


def test_a_file_of_other_content_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    monkeypatch.setattr(fetch, "REDOCRED", tmp_path / "redocred")
    (tmp_path / "redocred").mkdir()
    for name in fetch.CHECKSUMS:
        (tmp_path / "redocred" / name).write_text("[]")
    with pytest.raises(UserError, match=r"redocred/train_revised\.json: is not the official .* remove it"):
        fetch.fetch_redocred()


def test_without_network_the_remedy_is_named(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    monkeypatch.setattr(fetch, "REDOCRED", tmp_path / "redocred")
    with pytest.raises(UserError, match=r"no route to the hub.*put train_revised\.json, .* into redocred/ by hand"):
        fetch.fetch_redocred()


def copy_scripts(clone, *names):
    for name in names:
        (clone / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)


# Stands in for setup.sh, size.sh, a training and Python in a clone of their own.
SWEEP = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; PATH=$PWD/bin:$PATH',
    "scripts/tools/size.sh": "RUNS=runs",
    "scripts/run_bert.sh": 'mkdir "at_$CUDA_VISIBLE_DEVICES" || exit 1; sleep 0.2; rmdir "at_$CUDA_VISIBLE_DEVICES"\n'
    'echo "$3 $CUDA_VISIBLE_DEVICES" >>used',
    "bin/python": '#!/bin/bash\n[ "$1" = -c ] && echo 0 1 || echo status',
}


@pytest.mark.parametrize(
    ("given", "gpus"),
    [("2,3", ["2", "3", "2", "3"]), ("GPU-8f,7,5", ["GPU-8f", "7", "5", "GPU-8f"]), (None, ["0", "1", "0", "1"])]
    + [(hidden, 4 * ["-1"]) for hidden in ("", "-1")],
)
def test_a_sweep_takes_the_gpus_it_is_given_one_training_at_a_time_on_each(tmp_path, given, gpus):
    for name, content in SWEEP.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(0o755)
    copy_scripts(tmp_path, "sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh")
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment |= {"LOSSES": "atl", "SEEDS": "1 2 3 4"} | ({} if given is None else {"CUDA_VISIBLE_DEVICES": given})
    done = subprocess.run(["bash", str(tmp_path / "scripts/sweep.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "status" in done.stdout, done.stdout + done.stderr
    used = dict(line.split() for line in (tmp_path / "used").read_text().splitlines())
    assert used == {str(seed): gpu for seed, gpu in enumerate(gpus, 1)}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_sweep_that_is_stopped_stops_its_trainings_and_waits_until_they_have_saved(tmp_path, name):
    training = 'trap \'sleep 1; echo "$3" >>saved; exit 75\' TERM; touch "running_$3"; while true; do sleep 0.1; done'
    for path, content in (SWEEP | {"scripts/run_bert.sh": training}).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
        (tmp_path / path).chmod(0o755)
    copy_scripts(tmp_path, "sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh")
    environment = os.environ | {"LOSSES": "atl", "SEEDS": "1 2 3 4", "CUDA_VISIBLE_DEVICES": "2,3"}
    sweep = subprocess.Popen(
        ["bash", str(tmp_path / "scripts/sweep.sh")],
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # which is ignored where tests run behind nohup
    )
    try:
        while not ((tmp_path / "running_1").exists() and (tmp_path / "running_2").exists()):
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(getattr(signal, name))
        assert sweep.wait(timeout=300) == 130
        assert sorted((tmp_path / "saved").read_text().split()) == ["1", "2"]
        assert not (tmp_path / "running_3").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)


@pytest.mark.parametrize(("given", "address"), [(["--ray"], None), ([], "auto")])
def test_a_sweep_on_ray_hands_its_whole_list_over_and_ends_as_that_does(tmp_path, given, address):
    python = '#!/bin/bash\necho "$*" >>called\n[ "$1" != scripts/tools/ray_sweep.py ] || exit 3'
    for name, content in (SWEEP | {"bin/python": python}).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(0o755)
    copy_scripts(tmp_path, "sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh")
    environment = os.environ | {"LOSSES": "atl", "SEEDS": "1 2 3 4"} | ({"RAY_ADDRESS": address} if address else {})
    command = ["bash", str(tmp_path / "scripts/sweep.sh"), *given, "--num_train_epochs", "1"]
    assert subprocess.run(command, env=environment).returncode == 3
    called = (tmp_path / "called").read_text().splitlines()
    assert called == ["scripts/tools/ray_sweep.py 4 --num_train_epochs 1", "report.py --status runs"]
    assert not (tmp_path / "used").exists()


# Stand in for setup.sh, size.sh and Python: a call is a line of the file "called", --record makes an empty record.
STAND_INS = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; PATH=$PWD/bin:$PATH',
    "scripts/tools/size.sh": "RUNS=runs; SIZE_ARGS=(--seeds 1 5 42)",
    "bin/python": """#!/bin/bash
        echo "$*" >>called
        [ "$1 $2" = "report.py --record" ] || { echo "<${*:2}>"; exit 0; }
        record=$3/$(basename "$(dirname "$4")")/$(basename "$4").json
        mkdir -p "$(dirname "$record")"; touch "$record"
    """,
}


def calls_of(tmp_path, scripts, *arguments, **variables):
    """Run the first of these scripts in a folder of stand-ins; what it calls Python with."""
    for name, content in STAND_INS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(0o755)
    copy_scripts(tmp_path, *scripts, "tools/refuse.sh")
    (tmp_path / "called").write_text("")
    command = ["bash", str(tmp_path / "scripts" / scripts[0]), *arguments]
    subprocess.run(command, env=os.environ | {"SIZE": "full"} | variables, check=True, capture_output=True, text=True)
    return (tmp_path / "called").read_text().splitlines()


TABLE_2 = ["atlop_atl", "docunet_balanced_softmax", "kd_docre_afl"]  # each and HingeABL


def test_table_2_trains_each_module_with_its_authors_loss_and_with_hingeabl(tmp_path):
    calls = calls_of(tmp_path, ["table.sh", "run_roberta.sh"], "2")
    trained = [call.split("--output_dir ")[1].split()[0] for call in calls if call.startswith("train.py")]
    assert sorted(trained) == sorted(
        [f"runs/roberta_{name}" for name in TABLE_2]
        + [f"runs/roberta_{module}_hingeabl_released" for module in ("atlop", "docunet", "kd_docre")]
    )
    assert calls[-1].startswith("report.py --table 2 runs/roberta_")


@pytest.mark.parametrize(("number", "losses"), [("1", 1), ("3", 8), ("4", 8), ("7", 8), ("3_later", 13)])
def test_a_table_trains_its_losses_and_is_printed(tmp_path, number, losses):
    calls = calls_of(tmp_path, ["table.sh", "run_bert.sh"], number)
    assert sum(call.startswith("train.py --model_name_or_path bert-base-cased") for call in calls) == losses
    assert len(calls) == losses + 1 and calls[-1].startswith(f"report.py --table {number} runs/bert_atl")


def test_a_sweep_runs_each_script_that_its_head_names(tmp_path):
    scripts = ["sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh", "run_bert.sh", "run_cdr.sh", "run_roberta.sh"]
    chosen = {"SCRIPTS": "bert cdr roberta_atlop roberta_docunet roberta_kd_docre", "LOSSES": "afl", "SEEDS": "5"}
    calls = calls_of(tmp_path, scripts, CUDA_VISIBLE_DEVICES="0", **chosen)
    trained = [call.split("--output_dir ")[1].split()[0] for call in calls if call.startswith("train.py")]
    names = ("bert", "cdr", "roberta_atlop", "roberta_docunet", "roberta_kd_docre")
    assert trained == [f"runs/{name}_afl" for name in names]


@pytest.mark.parametrize(
    ("dataset", "script", "table"), [("cdr", "run_cdr.sh", "inter"), ("dwie", "studies/run_dwie.sh", "all")]
)
def test_the_studies_on_other_benchmarks_train_and_record_what_has_no_record(tmp_path, dataset, script, table):
    chosen = {"LOSSES": "atl sat", "SEEDS": "1 5", "RECORDS": "records", "RUNS": "runs", "EPOCHS": "30"}
    scripts = ["studies/small_encoder.sh", script]
    (tmp_path / "records/bert_atl").mkdir(parents=True)
    (tmp_path / "records/bert_atl/seed_5.json").touch()
    calls = calls_of(tmp_path, scripts, dataset, **chosen)
    outputs = [call.split("--output_dir ")[-1] for call in calls if call.startswith("train.py")]
    assert len(outputs) == 3 and sum("bert_sat" in output for output in outputs) == 2
    assert calls[0].startswith(
        "scripts/tools/fetch.py cdr" if dataset == "cdr" else "prepro.py dataset/dwie/train.json"
    )
    assert len(list(tmp_path.glob("records/bert_*/seed_*.json"))) == 4
    again = calls_of(tmp_path, scripts, dataset, **chosen)
    assert all(call.startswith("report.py --table") for call in again)  # no documents are needed
    tables = (tmp_path / "records/tables.md").read_text()
    assert tables == f"<--table {table} --format markdown records>\n\n<--table runs --format markdown records>\n"


@pytest.mark.parametrize("script", ["run_dreeam.sh", "run_kd_docre_distill.sh"])
def test_a_script_of_several_steps_refuses_another_folder(tmp_path, script):
    (tmp_path / "distant.json").touch()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        calls_of(tmp_path, [script], "afl", "--output_dir", "runs/mine", DISTANT=str(tmp_path / "distant.json"))
    assert failed.value.returncode == 2 and "--output_dir: is not taken here; the steps have" in failed.value.stderr


@pytest.mark.parametrize("option", ["--seeds=1", "--output_dir", "--loss", "--seed"])
def test_a_sweep_refuses_the_options_that_it_sets_itself(tmp_path, option):
    scripts = ["sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh", "run_bert.sh"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        calls_of(tmp_path, scripts, "--margin", "2", option, "1", CUDA_VISIBLE_DEVICES="0", LOSSES="atl")
    assert failed.value.returncode == 2
    assert failed.value.stderr.startswith(f"error: {option.removesuffix('=1')}: is not taken here; set LOSSES=")


@pytest.mark.parametrize("option", ["--seeds", "--output_dir"])
def test_the_script_of_the_model_refuses_another_seed_or_folder(tmp_path, option):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        calls_of(tmp_path, ["train_model.sh"], "--data", "x", "train.json", "--", option, "5")
    assert f"{option}: is not taken here; the model is that of seed 1" in failed.value.stderr


def test_a_number_behind_the_end_of_a_sweep_is_told(tmp_path):
    copy_scripts(tmp_path, "tools/sweep_list.sh", "tools/refuse.sh")
    command = "source scripts/tools/sweep_list.sh; run_of_list 2"
    environment = os.environ | {"LOSSES": "atl", "SEEDS": "1 5", "RUNS": "runs"}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: training 2: there are 2, numbered from 0; submit --array=0-1\n"


@pytest.mark.parametrize("distant", [True, False])
def test_dreeam_with_distant_documents_trains_one_teacher_and_one_student(tmp_path, distant):
    (tmp_path / "distant.json").touch()
    more = {"DISTANT": str(tmp_path / "distant.json") if distant else ""}
    calls = calls_of(tmp_path, ["run_dreeam.sh"], "afl", "--seeds", "5", **more)
    seeds = [call.split("--seeds ")[-1] for call in calls if call.startswith("train.py")]
    assert seeds == (["1", "1", "5 --init_from runs/dreeam_afl/student/seed_1"] if distant else ["5"])
    assert calls[-1].startswith("scripts/fuse_evidence.py")


# --- the quickstart, with stand-ins for set-up and Python, which writes the summary of a training

QUICKSTART = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; PATH=$PWD/bin:$PATH',
    "bin/python": f"#!{sys.executable}"
    """
import json, os, sys
if sys.argv[1] == "-":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
print(*sys.argv[1:], file=open("called", "a"))
if sys.argv[1] == "train.py":
    given = dict(zip(sys.argv, sys.argv[1:]))
    scores = {"f1": 0.8731 if given["--loss_type"] == "atl" else 0.7, "precision": 0.5, "recall": 0.99}
    means = {name: {"mean": value, "std": None} for name, value in scores.items()}
    summary = {"dev": means, "test": means, "runs": [{"seed": int(given["--seeds"]), "dev": scores}]}
    os.makedirs(given["--output_dir"])
    json.dump(summary, open(given["--output_dir"] + "/summary.json", "w"))
""",
}


def quickstart(folder, *arguments, **variables):
    for name, content in QUICKSTART.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    copy_scripts(folder, "quickstart.sh", "tools/refuse.sh")
    command = ["bash", str(folder / "scripts/quickstart.sh"), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def test_the_quickstart_trains_both_losses_for_one_seed_and_compares_them(tmp_path):
    done = quickstart(tmp_path)
    assert done.returncode == 0, done.stderr
    calls = [line for line in (tmp_path / "called").read_text().splitlines() if line.startswith("train.py")]
    for call, loss in zip(calls, ("atl", "hingeabl_released"), strict=True):
        assert f"--loss_type {loss} " in call and f" --seeds 1 --output_dir runs/quickstart/{loss}" in call
    assert re.search(r"^atl +87\.31 +50\.00 +99\.00 +87\.31", done.stdout, re.M)
    assert re.search(r"^hingeabl_released +70\.00 ", done.stdout, re.M)
    assert "the best on dev: runs/quickstart/atl/seed_1\n" in done.stdout
    assert "HingeABL needs a long training" in done.stdout


@pytest.mark.slow
def test_the_quickstart_takes_other_losses_and_folders_by_its_variables_alone(tmp_path):
    done = quickstart(tmp_path, "--seeds", "5", LOSSES="afl", RUNS="runs/mine")
    assert "the best on dev: runs/mine/afl/seed_5\n" in done.stdout
    (tmp_path / "called").unlink()
    for option in ("--loss_type", "--output_dir=runs/other", "--o"):
        done = quickstart(tmp_path, option, "atl")
        told = f'error: {option.split("=")[0]}: is not taken here; set LOSSES="atl afl" or RUNS=runs/mine before'
        assert done.returncode == 2 and done.stderr == f"{told} the command\n"
        assert not (tmp_path / "called").exists()
