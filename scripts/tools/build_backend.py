"""What pip calls to install the clone: setuptools, and in a wheel copies of the root's files in hingeabl/core/."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  pip looks for them here
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt")  # that setuptools reads


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """A wheel, made in a scratch folder; returns its file name in `wheel_directory`."""
    target = os.path.abspath(wheel_directory)
    with tempfile.TemporaryDirectory() as scratch:
        for name in FILES:
            shutil.copy(ROOT / name, scratch)
        package = shutil.copytree(ROOT / "hingeabl", Path(scratch, "hingeabl"), ignore=shutil.ignore_patterns("*.pyi"))
        for path in [*ROOT.glob("*.py"), ROOT / "CITATION.cff", ROOT / "requirements.txt"]:
            shutil.copy(path, package / "core")
        for folder in ("meta", "models"):
            shutil.copytree(ROOT / folder, package / "core" / folder)
        before = os.getcwd()
        os.chdir(scratch)
        try:
            return build_meta.build_wheel(target, config_settings)
        finally:
            os.chdir(before)
