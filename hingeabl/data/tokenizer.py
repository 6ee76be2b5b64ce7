"""The tokenizer of an encoder."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hingeabl.data.quiet import quiet_loading
from hingeabl.errors import UserError
from hingeabl.files import refuse_non_data_files
from hingeabl.machine import hub_hint, why_not_loaded


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """An encoder's tokenizer. Raises UserError if it can't be found or loaded."""
    try:
        with quiet_loading():
            return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:
        refuse_non_data_files(name_or_path)
        raise UserError(
            f"tokenizer of {name_or_path!r}: cannot be loaded ({why_not_loaded(name_or_path, error)}); pass an "
            f"encoder's folder, or a hub name while the hub can be reached{hub_hint(name_or_path)}"
        ) from None
