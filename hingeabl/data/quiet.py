"""Silences transformers and the hub's client while they load something."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

IN_BACKGROUND = "DISABLE_SAFETENSORS_CONVERSION"  # if set, no hub is contacted while weights are loaded


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Within the block there is no progress bar for loading weights, which is short and would break ours, and no
    warning for each attempt to reach a hub. The settings are restored afterwards."""
    bars, level, value = logging.is_progress_bar_enabled(), hub_logging.get_verbosity(), os.environ.get(IN_BACKGROUND)
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    os.environ.setdefault(IN_BACKGROUND, "1")
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
        hub_logging.set_verbosity(level)
        if value is None:
            os.environ.pop(IN_BACKGROUND, None)
