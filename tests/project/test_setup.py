"""Set-up takes the build of torch that the GPU and its driver can run; nvidia-smi, pip and uv are stand-ins."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch_build
from conftest import ROOT

PIP = """
import os, sys
log = os.environ["LOG"]
if "config" in sys.argv:
    print(os.environ.get("PIP_CONFIG_SAYS", ""))
else:
    print("pip", *sys.argv[1:], file=open(log, "a"))
    sys.exit("--index-url" in sys.argv and int(os.environ.get("INDEX_FAILS", "0")))
"""
PYTHON = f"""
if [ "$1 $2" = "-m venv" ]; then
    "{sys.executable}" -m venv --clear --without-pip .venv && cp -r "$STAND_INS/pip" .venv/lib/python*/site-packages/
else
    exec "{sys.executable}" "$@"
fi
"""
UV = 'echo uv "$@" >>"$LOG"\ncase "$*" in *"--torch-backend ${UV_HAS:-none} "*) exit 0 ;; *) exit 2 ;; esac'
OLD_DRIVER = 'echo "NVIDIA A800 80GB PCIe, 535.104.05, 8.0"'
NEW_DRIVER = 'echo "NVIDIA H100, 580.65.06, 9.0"'
BROKEN = 'echo "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver"; exit 9'
NO_CAPABILITY = 'case "$*" in *compute_cap*) echo "Field is not valid"; exit 2 ;; *) echo "Tesla V100, %s" ;; esac'
PIP_INSTALL = "pip install --quiet --disable-pip-version-check -r scripts/requirements/"
CLONE_INSTALL = "pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ."
UV_INSTALL = "uv pip install --quiet --python {clone}/.venv/bin/python --torch-backend {build} torch==2.13.0"


def program(folder, name, script):
    """A stand-in program of this name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A folder of programs that are all a machine has, and a clone that set-up runs in."""
    tools = tmp_path / "tools"
    (tools / "pip").mkdir(parents=True)
    (tools / "pip" / "__main__.py").write_text(PIP)
    for name in ("bash", "sh", "cat", "cp", "dirname", "env", "uname"):
        (tools / name).symlink_to(shutil.which(name))
    program(tools, "python3", PYTHON)
    shutil.copytree(ROOT / "scripts", tmp_path / "clone/scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", tmp_path / "clone")
    shutil.copytree(ROOT / "hingeabl", tmp_path / "clone/hingeabl", ignore=shutil.ignore_patterns("__pycache__"))
    return tools


def source_setup(machine, *, fails=False, **variables):
    """Source setup.sh; the finished process."""
    clone, log = machine.parent / "clone", machine.parent / "log"
    environment = {"PATH": str(machine), "LOG": str(log), "STAND_INS": str(machine), "HOME": str(machine), **variables}
    command = ["bash", "-c", f"source {clone}/scripts/setup.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def set_up(machine, *, fails=False, **variables):
    """Source setup.sh; (the commands of pip and uv, but for those of lock file and clone; output; errors)."""
    clone, log = machine.parent / "clone", machine.parent / "log"
    done = source_setup(machine, fails=fails, **variables)
    commands = log.read_text().replace(str(clone), "{clone}").splitlines()
    if not fails:
        assert commands.pop() == CLONE_INSTALL
        assert commands.pop().endswith(f"{PIP_INSTALL}requirements.lock")
        assert (clone / ".venv/installed").exists()
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: torch: ")]  # the doctor's
    return commands, done.stdout.splitlines()[1:], warnings


@pytest.mark.parametrize("script", [None, NEW_DRIVER])
@pytest.mark.parametrize("uv", [False, True])
def test_set_up_is_plain_pip_without_a_gpu_or_with_one_that_fits(machine, script, uv):
    if script:
        program(machine, "nvidia-smi", script)
    if uv:
        program(machine, "uv", UV)
    own = {} if script else {"PIP_CONFIG_SAYS": "global.index-url='file:///x'"}  # else uv would take the CPU build
    assert set_up(machine, **own) == ([], [], [])


@pytest.mark.parametrize(
    ("script", "builds"),
    [
        (OLD_DRIVER, ["cu126"]),
        ('echo "NVIDIA B200, 570.86.15, 10.0"', ["cu128"]),
        ('echo "NVIDIA H100, 570.86.15, 9.0"', ["cu128", "cu126"]),
        ('echo "Tesla V100, 580.65.06, 7.0"', ["cu126"]),
        ('echo "NVIDIA H100, 580.65.06, 9.0"; echo "Tesla V100, 580.65.06, 7.0"', ["cu126"]),
        (NO_CAPABILITY % "525.60.13", ["cu126"]),
    ],
)
def test_uv_takes_the_newest_build_that_driver_and_cards_run_and_an_index_has(machine, script, builds):
    program(machine, "nvidia-smi", script)
    program(machine, "uv", UV)
    commands, output, warnings = set_up(machine, UV_HAS=builds[-1])
    assert commands == [UV_INSTALL.format(clone="{clone}", build=build) for build in builds]
    assert output == [f"torch 2.13.0: uv took the build {builds[-1]}"] and not warnings


@pytest.mark.parametrize("uv", ["missing", "fails", "passed over for pip's own index"])
def test_an_old_driver_is_told_before_the_download_with_the_build_that_fits(machine, uv):
    program(machine, "nvidia-smi", OLD_DRIVER)
    if uv != "missing":
        program(machine, "uv", UV)
    own = {"PIP_CONFIG_SAYS": "global.find-links='/x'"} if "own" in uv else {}
    commands, _, warnings = set_up(machine, **own)
    assert len(commands) == (uv == "fails") and len(warnings) == 1 + (uv == "fails")
    told = (
        r"WARNING: NVIDIA A800 80GB PCIe \(driver 535\.104\.05, compute capability 8\.0\) cannot run the build of "
        r"torch 2\.13\.0 .*cu130: driver 580.*cu126 fits: .*TORCH_INDEX_URL=.*UV_TORCH_BACKEND=cu126; or update "
        r"the driver"
    )
    assert re.fullmatch(told, warnings[-1])


@pytest.mark.parametrize("script", ['echo "NVIDIA A800, 470.57.02, 8.0"', NO_CAPABILITY % "470.57.02"])
def test_a_driver_too_old_for_every_build_is_told_to_be_updated(machine, script):
    program(machine, "nvidia-smi", script)
    program(machine, "uv", UV)
    commands, _, warnings = set_up(machine)
    assert not commands and len(warnings) == 1
    assert "nor another build: update the driver (to 525 at least), or work on the CPU" in warnings[0]


@pytest.mark.parametrize("script", [BROKEN, "echo 'No devices were found'", "echo", "echo 'a, [N/A], [N/A]'"])
def test_an_nvidia_smi_that_reports_no_gpu_is_told_and_pip_goes_on(machine, script):
    program(machine, "nvidia-smi", script)
    program(machine, "uv", UV)
    commands, _, warnings = set_up(machine)
    assert not commands and len(warnings) == 1 and warnings[0].startswith("nvidia-smi reports no GPU")


@pytest.mark.skipif(any(map(os.path.exists, torch_build.GPU_SIGNS)), reason="this machine has a GPU")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pip's own build is the CPU's")
@pytest.mark.parametrize("has", ["cpu", "none"])
def test_without_a_gpu_uv_takes_the_cpu_build_where_it_can_be_had(machine, has):
    program(machine, "uv", UV)
    commands, output, warnings = set_up(machine, UV_HAS=has)
    assert commands == [UV_INSTALL.format(clone="{clone}", build="cpu")]
    assert (len(output), len(warnings)) == ((1, 0) if has == "cpu" else (0, 1))


def test_a_clusters_login_node_gets_the_build_for_gpus(machine):
    program(machine, "uv", UV)
    program(machine, "sbatch", "exit 0")
    assert set_up(machine, UV_HAS="cpu") == ([], [], [])


def test_the_index_that_the_user_names_is_for_torch_alone(machine):
    program(machine, "nvidia-smi", OLD_DRIVER)
    program(machine, "uv", UV)
    commands, _, warnings = set_up(machine, TORCH_INDEX_URL="http://127.0.0.1:9/cu126")
    assert len(commands) == 1 and not warnings
    assert commands[0].endswith("install --quiet --index-url http://127.0.0.1:9/cu126 torch==2.13.0")


def test_an_index_that_fails_stops_set_up_and_its_password_is_not_shown(machine):
    variables = {"TORCH_INDEX_URL": "http://me:secret@127.0.0.1:9/x", "INDEX_FAILS": "1"}
    commands, _, warnings = set_up(machine, fails=True, **variables)
    assert len(commands) == 1 and not (machine.parent / "clone/.venv/installed").exists()
    assert warnings == ["error: torch 2.13.0 could not be installed from TORCH_INDEX_URL=http://***@127.0.0.1:9/x"]


@pytest.mark.parametrize("uv", [False, True])
def test_the_build_that_the_user_names_is_what_uv_takes_or_the_missing_uv_is_told(machine, uv):
    if uv:
        program(machine, "uv", UV)
    commands, _, warnings = set_up(machine, UV_TORCH_BACKEND="cu132", UV_HAS="cu132", PIP_CONFIG_SAYS="x.index-url")
    assert commands == ([UV_INSTALL.format(clone="{clone}", build="cu132")] if uv else [])
    assert warnings == ([] if uv else ["WARNING: UV_TORCH_BACKEND=cu132 is for uv, which is not installed"])


def test_extras_are_added_where_they_are_wanted_once_and_again_when_their_lock_changes(machine):
    clone, log = machine.parent / "clone", machine.parent / "log"

    def installed(**variables):
        log.write_text("")
        source_setup(machine, **variables)
        return [line.removeprefix(PIP_INSTALL) for line in log.read_text().splitlines()]

    assert installed() == ["requirements.lock", CLONE_INSTALL]
    assert installed(EXTRAS="yes") == ["extras.lock", "spacy_model.lock"]
    assert installed(EXTRAS="yes") == []
    with (clone / "scripts/requirements/extras.lock").open("a") as file:
        file.write("# another line\n")
    assert installed() == []
    assert installed(EXTRAS="yes") == ["extras.lock", "spacy_model.lock"]


def test_a_clone_that_is_reached_by_another_path_is_not_set_up_again(machine):
    set_up(machine)
    before = (machine.parent / "log").read_text()
    (machine.parent / "link").symlink_to(machine.parent / "clone")
    environment = {"PATH": str(machine), "LOG": str(machine.parent / "log"), "STAND_INS": str(machine)}
    subprocess.run(["bash", "-c", f"source {machine.parent}/link/scripts/setup.sh"], env=environment, check=True)
    assert (machine.parent / "log").read_text() == before


def test_the_table_of_builds_is_for_the_torch_of_the_lock_and_starts_with_the_newest():
    assert f"\ntorch=={torch_build.TORCH}\n" in (ROOT / "scripts/requirements/requirements.lock").read_text()
    drivers = [build.driver for build in torch_build.BUILDS]
    assert drivers == sorted(drivers, reverse=True)
