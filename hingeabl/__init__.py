"""Imported before anything else: a package that is not installed is told in one line, not in a traceback."""

import sys
from types import TracebackType


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook: what no program catches, told as always, except for a missing package."""
    if isinstance(error, ModuleNotFoundError):
        print(f"error: {error.name} is not installed; pip install -r requirements.txt", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = tell
