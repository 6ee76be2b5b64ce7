"""Errors that the user can correct: reported in one line on stderr, with a non-zero exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

LONGEST_MESSAGE = 2000
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CANNOT_WRITE = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


class UserError(Exception):
    """An error that the user can correct: one line that names file, document, field and remedy."""


def need(module: str, problem: str) -> Any:
    """A module of an optional package. Raises UserError, saying `problem`, if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(problem) from None


def run_command_line(main: Callable[[], None]) -> None:
    """Run a script's main(). A UserError becomes one line on stderr and exit code 2; so does a full disk or memory that
    no other code has reported."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or pipe that cannot show a character shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # --help and sys.exit leave by an exception
    except UserError as error:
        sys.exit(_fail(str(error), 2))
    except BrokenPipeError:  # whoever read our output, such as `head`, has left
        _drop_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        _drop_output()
        sys.exit(_fail(f"{error.filename or 'output'}: {error.strerror or error}; {remedy_of(error)}", 2))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        sys.exit(_fail(f"out of memory ({first_line(error)}); pass a smaller batch, or use a larger machine", 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    message = " ".join(message.split())
    if len(message) > LONGEST_MESSAGE:  # broken files may hold values of any length
        message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
    print(f"error: {message}", file=sys.stderr)
    return code


def print_warning(message: str) -> None:
    """Print a warning to stderr; of torchrun's processes, the first alone."""
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
        print(f"WARNING: {message}", file=sys.stderr)


def remedy_of(error: Exception) -> str:
    """The remedy if a file cannot be written."""
    code = getattr(error, "errno", None)
    if code in DISK_FULL or "No space left" in str(error):  # safetensors gives no number
        return "free some disk space or choose another place"
    if code in (errno.EACCES, errno.EPERM):
        return "change its permissions or choose another place"
    return "choose another place"


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory has run out, on a GPU or on the CPU."""
    error_type = type(error).__name__  # torch's own, without importing torch here
    return isinstance(error, MemoryError) or error_type == "OutOfMemoryError" or "can't allocate memory" in str(error)


@contextlib.contextmanager
def naming_batch(batch: dict[str, Any], titles: list[str], remedy: str) -> Iterator[None]:
    """If memory runs out, raise UserError that names the batch; `titles` are those of its documents."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        more = f" and {len(titles) - 4} more" if len(titles) > 4 else ""
        count = f"{len(titles)} document{'s' * (len(titles) > 1)}"
        raise UserError(
            f"out of memory on a batch of {count}, {sum(batch['lengths']):,} tokens and "
            f"{sum(map(len, batch['hts'])):,} pairs ({', '.join(map(repr, titles[:4]))}{more}); {remedy}"
        ) from None
