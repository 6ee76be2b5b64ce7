"""A run on the model hub: recognised by its name, downloaded, and the hub client's errors explained."""

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
ENCODER_NAMES = {  # the ENCODER_FILES of any encoder; other files depend on its tokenizer
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
    """Whether this names a model on the hub, owner/name or owner/name@revision, and `owner` is no local folder."""
    match = NAME_AT.fullmatch(str(name))
    return match is not None and not looks_like_path(match[1])


def resolve_run(name: str | Path) -> Path:
    """An existing path unchanged; for the name of a model on the hub the folder with its files, downloaded unless they
    are in the cache. Raises UserError if there is neither."""
    if is_hub_name(name):
        return download(str(name))
    if not os.path.exists(name):
        raise UserError(f"--load_path {name}: no such file or folder; check the path")
    return Path(name)


def download(name: str) -> Path:
    """The folder with the files of the run owner/name or owner/name@revision, and no others. Raises UserError if they
    cannot be downloaded, or are no run."""
    from huggingface_hub import snapshot_download  # here, since it takes a while

    repo, _, revision = name.partition("@")
    problem = f"--load_path {name}: no such file or folder, and not to be had from the hub"
    folder = Path()
    for patterns, needed in ((SMALL_FILES, NEEDED), ([WEIGHTS], [WEIGHTS])):  # no weights if it is no run
        commit = folder.name or revision or None  # both downloads of one commit; the client names the folder after it
        try:
            folder = Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))
        except Exception as error:  # the hub's client, its HTTP client, the disk
            refuse(problem, error, repo)
        missing = [file for file in needed if not (folder / file).exists()]
        if missing:
            raise UserError(
                f"--load_path {name}: the hub's model lacks {', '.join(missing)}; name a run that scripts/publish.py "
                "published"
            )
    return folder


def refuse(problem: str, error: Exception, repo: str) -> NoReturn:
    """Raise UserError, beginning with `problem`, that explains an error of the hub's client."""
    hint, answer = hub_hint(repo), answer_in(error)
    if answer is None:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(f"{problem} ({without_password(first_line(cause))}); check name and network{hint}") from None
    status = answer.response.status_code  # type: ignore[attr-defined]
    if status in MEANINGS:
        raise UserError(f"{problem} ({status}): {MEANINGS[status]}{hint}") from None
    message = " ".join(re.sub(r"For more information check: \S+", "", str(answer)).split())
    raise UserError(
        f"{problem} ({status}): the hub says: {without_password(message)}; mend that, or try later{hint}"
    ) from None


def answer_in(error: BaseException | None) -> BaseException | None:
    """The error with the hub's answer: this one or one of its causes; None if the hub did not answer."""
    while error is not None and not hasattr(getattr(error, "response", None), "status_code"):
        error = error.__cause__
    return error
