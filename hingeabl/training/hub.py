"""A run on the model hub: found by its name, downloaded, and what the errors of the hub's client mean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from hingeabl.core import ROOT
from hingeabl.errors import UserError, first_line
from hingeabl.machine import hub_hint, looks_like_path, without_password

SHIPPED = ROOT / "models" / "redocred_minilm"  # the trained model of this repository, used where none is named
WEIGHTS = "model.safetensors"
NEEDED = ("config.json", "model.json", "rel2id.json", "encoder/config.json")  # besides the weights
ENCODER_FILES = ("encoder/*.json", "encoder/*.txt", "encoder/*.model")  # configuration and tokenizer; never a pickle
ENCODER_NAMES = {  # of them those that any encoder may have; its tokenizer knows the others
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
}
SMALL_FILES = [*NEEDED, "scores.json", "confidence.json", "types.json", *ENCODER_FILES]
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
NAME_AT = re.compile(rf"({NAME.pattern})(?:@([A-Za-z0-9_][\w./-]*))?", re.ASCII)
MEANINGS = {
    401: "the hub has no such model, or asks for a token: check the name, run hf auth login, or set HF_TOKEN",
    403: "this token may not do that: accept the model's conditions on its page, or take a token with the right to it",
    404: "the hub has no such model or revision, or hides it: check the name, or run hf auth login",
    429: "the hub asks to wait: try again in some minutes",
}


def is_hub_name(name: str | Path) -> bool:
    """Whether that is the name of a model on the hub, owner/name or owner/name@revision, and owner no folder here."""
    found = NAME_AT.fullmatch(str(name))
    return found is not None and not looks_like_path(found[1])


def resolve_run(name: str | Path) -> Path:
    """A path that exists as it is; of a model on the hub the folder with its files, downloaded unless they are in the
    cache. Raises UserError where there is neither."""
    if is_hub_name(name):
        return download(str(name))
    if not os.path.exists(name):
        raise UserError(f"--load_path {name}: no such file or folder; check the path")
    return Path(name)


def download(name: str) -> Path:
    """The folder with the files of the run owner/name or owner/name@revision, and no others. Raises UserError where it
    cannot be had, or is no run."""
    from huggingface_hub import snapshot_download  # here, since it takes a while

    repo, _, revision = name.partition("@")
    where = f"--load_path {name}: no such file or folder, and not to be had from the hub"
    folder = Path()
    for patterns, needed in ((SMALL_FILES, NEEDED), ([WEIGHTS], [WEIGHTS])):  # no weights of what is no run
        commit = folder.name or revision or None  # both of one commit, after which the client names the folder
        try:
            folder = Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))
        except Exception as error:  # of the hub's client, of its HTTP client, of the disk
            refuse(where, error, repo)
        missing = [file for file in needed if not (folder / file).exists()]
        if missing:
            raise UserError(
                f"--load_path {name}: the hub's model lacks {', '.join(missing)}; name a run that scripts/publish.py "
                "published"
            )
    return folder


def refuse(where: str, error: Exception, repo: str) -> NoReturn:
    """Raise UserError, opening with `where`, about an error of the hub's client, with what it means."""
    hint, answer = hub_hint(repo), answer_in(error)
    if answer is None:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(f"{where} ({without_password(first_line(cause))}); check name and network{hint}") from None
    status = answer.response.status_code  # type: ignore[attr-defined]
    if status in MEANINGS:
        raise UserError(f"{where} ({status}): {MEANINGS[status]}{hint}") from None
    said = " ".join(re.sub(r"For more information check: \S+", "", str(answer)).split())
    raise UserError(
        f"{where} ({status}): the hub says: {without_password(said)}; mend that, or try later{hint}"
    ) from None


def answer_in(error: BaseException | None) -> BaseException | None:
    """The error about the hub's answer in an error, or in what it came from; None where the hub gave none."""
    while error is not None and not hasattr(getattr(error, "response", None), "status_code"):
        error = error.__cause__
    return error
