"""transformers and the hub's client, silent while they load something."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

IN_BACKGROUND = "DISABLE_SAFETENSORS_CONVERSION"  # set, nothing is asked of a hub while weights are loaded


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Within its block there is no progress bar for an encoder's weights, which takes a moment and would break ours,
    and no warning of each try to reach a hub; afterwards all is as it was."""
    bars, level, setting = (
        logging.is_progress_bar_enabled(),
        hub_logging.get_verbosity(),
        os.environ.get(IN_BACKGROUND),
    )
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    os.environ.setdefault(IN_BACKGROUND, "1")
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
        hub_logging.set_verbosity(level)
        if setting is None:
            os.environ.pop(IN_BACKGROUND, None)
