"""What is around the programs: a user's folder with modules of its own, the name of the machine."""

import os
import socket
import subprocess
import sys
import threading

import doctor
import pytest
from conftest import ROOT

# --- a user's program with a module of the name of one of ours


OURS = ("utils", "losses", "evaluation", "train", "model", "prepro", "report")


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("{}.py", "predict"),
        ("{}/__init__.py", "hingeabl.prediction.predictor"),
        pytest.param("{}.py", "hingeabl.prediction.predictor", marks=pytest.mark.slow),
        pytest.param("{}/__init__.py", "predict", marks=pytest.mark.slow),
    ],
)
def test_a_users_own_modules_live_beside_ours_of_their_names(tmp_path, kind, start):
    program = ""
    for name in OURS:
        path = tmp_path / kind.format(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"def shout_{name}(text): return text.upper()\n")
        program += f"from {name} import shout_{name}\n"
    shouts = ", ".join(f"shout_{name}(Predictor.__name__)" for name in OURS)
    (tmp_path / "mine.py").write_text(
        f"{program}from {start} import Predictor\nassert {{{shouts}}} == {{'PREDICTOR'}}\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "mine.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- a machine whose name leads nowhere


@pytest.mark.parametrize("known", [True, False])
def test_the_doctor_tells_whether_the_machines_name_resolves(known, monkeypatch):
    def look_up(name, port):
        if not known:
            raise socket.gaierror("unknown name")
        return ["an address"]

    monkeypatch.setattr(socket, "gethostname", lambda: "lonely")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    told = "resolves" if known else "does not resolve; torchrun waits for minutes without --local_addr=127.0.0.1"
    assert list(doctor.host()) == [("host name", f"lonely {told}", known)]


def test_the_doctor_does_not_wait_for_a_name_without_an_answer(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(doctor, "SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, port: answered.wait() and ["an address"])
    [(_, told, well)] = doctor.host()
    answered.set()
    assert "does not resolve" in told and not well
