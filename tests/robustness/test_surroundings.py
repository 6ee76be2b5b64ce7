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


@pytest.mark.parametrize("name", ["utils.py", "utils/__init__.py", "losses.py", "evaluation.py", "train.py"])
@pytest.mark.parametrize("start", ["predict", "hingeabl.prediction.predictor"])
def test_a_users_own_module_lives_beside_ours_of_that_name(tmp_path, name, start):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("def shout(text): return text.upper()\n")
    module = name.split("/")[0].removesuffix(".py")
    program = f"from {module} import shout\nfrom {start} import Predictor\nprint(shout(Predictor.__name__))\n"
    (tmp_path / "mine.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "mine.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "PREDICTOR\n", "")


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
