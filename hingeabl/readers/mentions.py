"""The mentions and sentences of plain text: a token classifier trained on DocRED's own mentions.

The encoder reads the text in windows of word pieces. For each word it predicts a mention tag (B or I of six types, or
O) and whether a sentence begins there. An uncased encoder gets the case as segment ids, see SHAPES.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForTokenClassification

from hingeabl.compressed import expand
from hingeabl.core import ROOT
from hingeabl.core.utils import autocast, pick_precision, recurring_size
from hingeabl.errors import UserError, first_line
from hingeabl.files import read_json

MODEL = ROOT / "models" / "docred_mentions"  # the detector of this repository
ENTITY_TYPES = ("PER", "ORG", "LOC", "TIME", "NUM", "MISC")  # DocRED's
TAGS = ("O", *(f"{first}-{entity_type}" for entity_type in ENTITY_TYPES for first in "BI"))
SENTENCE = len(TAGS)  # the number of the label "a sentence begins here", a class apart from the tags
LABELS = len(TAGS) + 1
INSIDE = np.array([tag.startswith("I") for tag in TAGS])
SHAPES = 6  # lower case, Capitalised, UPPER CASE, miXed, one capital, no letter
WINDOW, OVERLAP = 512, 128  # word pieces, with [CLS] and [SEP]
CPU = torch.device("cpu")
BATCH = 2048  # word pieces scored at a time, padding included


class Words(NamedTuple):
    """A text as the encoder reads it: `pieces` int64 [p] without special ones, `shapes` int64 [p], `first` int64 [w],
    the index of each word's first piece, and `spans` int64 [w, 2], each word's characters [start, end)."""

    pieces: np.ndarray
    shapes: np.ndarray
    first: np.ndarray
    spans: np.ndarray


class Detection(NamedTuple):
    """The mentions (start, end, type) of a text and the starts of its sentences, in characters and in order."""

    mentions: list[tuple[int, int, str]]
    sentences: list[int]


def tokenizer_of(folder: str | Path) -> Tokenizer:
    """The tokenizer in an encoder's folder, set to neither pad nor truncate."""
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is three words
    return tokenizer


def shape_of(word: str) -> int:
    """The shape of a word, see SHAPES."""
    letters = [letter for letter in word if letter.isalpha()]
    if not letters:
        return 5
    upper = [letter.isupper() for letter in letters]
    if not any(upper):
        return 0
    if all(upper):
        return 2 if len(letters) > 1 else 4
    return 1 if upper[0] and not any(upper[1:]) else 3


def is_mark(character: str) -> bool:
    """Whether a character combines with the one before it, as an accent."""
    return unicodedata.category(character).startswith("M")


def words_of(tokenizer: Tokenizer, text: str) -> Words:
    """The words of a text, split at white space and punctuation as BERT does; a word's pieces stay together."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    numbers = np.array(encoded.word_ids, dtype=np.int64)
    offsets = np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2)
    first = np.flatnonzero(np.diff(numbers, prepend=-1)) if len(numbers) else np.zeros(0, dtype=np.int64)
    last = np.append(first[1:], len(numbers)) - 1
    spans = np.stack([offsets[first, 0], offsets[last, 1]], axis=1) if len(first) else offsets
    if not text.isascii():  # the tokenizer leaves a word's last accents out where they are characters of their own
        for word, end in enumerate(spans[:, 1].tolist()):
            spans[word, 1] = next((at for at in range(end, len(text)) if not is_mark(text[at])), len(text))
    shapes = np.array([shape_of(text[start:end]) for start, end in spans], dtype=np.int64)
    return Words(np.array(encoded.ids, dtype=np.int64), np.repeat(shapes, last - first + 1), first, spans)


def windows_of(length: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows [start, end) over `length` pieces, each with the part [from, to) that its scores are used for: the
    overlap of two windows is halved between them, so that each piece is scored where it has more context."""
    size, start, from_piece = WINDOW - 2, 0, 0
    while True:
        end = min(start + size, length)
        to_piece = length if end == length else end - OVERLAP // 2
        yield start, end, from_piece, to_piece
        if end == length:
            return
        from_piece, start = to_piece, end - OVERLAP


def batch_of(windows: Sequence[tuple[np.ndarray, np.ndarray]], specials: tuple[int, int]) -> dict[str, Tensor]:
    """Windows' pieces and shapes -> the encoder's inputs, int64 [b, n], padded; `specials` are the ids of [CLS] and
    [SEP]."""
    longest = recurring_size(max(len(pieces) for pieces, _ in windows) + 2, 32, CPU)
    inputs = torch.zeros(3, len(windows), longest, dtype=torch.long)
    for row, (pieces, shapes) in enumerate(windows):
        end = len(pieces) + 1
        inputs[0, row, [0, end]] = torch.tensor(specials)
        inputs[0, row, 1:end], inputs[1, row, 1:end] = torch.from_numpy(pieces), torch.from_numpy(shapes)
        inputs[2, row, : end + 1] = 1
    return dict(zip(("input_ids", "token_type_ids", "attention_mask"), inputs, strict=True))


def best_tags(scores: np.ndarray) -> np.ndarray:
    """The most probable tags [w] of words' log probabilities [w, tags] in which I-X follows B-X or I-X alone."""
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    allowed = np.array([[not tag.startswith("I") or before[1:] == tag[1:] for tag in TAGS] for before in TAGS])
    penalty = np.where(allowed, 0, -np.inf)
    total = scores[0] + np.where(INSIDE, -np.inf, 0)
    back = np.zeros(scores.shape, dtype=np.int64)
    for word in range(1, len(scores)):
        paths = total[:, None] + penalty
        back[word] = paths.argmax(axis=0)
        total = paths.max(axis=0) + scores[word]
    tags = [int(total.argmax())]
    for word in range(len(scores) - 1, 0, -1):
        tags.append(int(back[word, tags[-1]]))
    return np.array(tags[::-1])


def mentions_of(tags: Sequence[int], spans: Sequence[Sequence[int]]) -> list[tuple[int, int, str]]:
    """The mentions (start, end, type) given by words' tags and character spans."""
    mentions: list[list[Any]] = []
    for tag, (start, end) in zip(tags, spans, strict=True):
        if TAGS[tag].startswith("B"):
            mentions.append([int(start), int(end), TAGS[tag][2:]])
        elif tag:
            mentions[-1][1] = int(end)
    return [(start, end, entity_type) for start, end, entity_type in mentions]


class MentionTagger:
    """The mention detector on the CPU; it multiplies in bf16 if the processor supports it."""

    def __init__(self, model: BertForTokenClassification, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        cls, sep = map(tokenizer.token_to_id, ("[CLS]", "[SEP]"))
        if cls is None or sep is None:
            raise UserError("the detector's tokenizer has no [CLS] and [SEP]; it must be a BERT's")
        self.specials = (cls, sep)

    @classmethod
    def load(cls, folder: str | Path = MODEL) -> MentionTagger:
        """The detector in a folder, in float32 on the CPU. Raises UserError if a file is missing or broken."""
        folder = Path(folder)
        config = read_json(folder / "config.json")
        try:
            with torch.device("meta"):
                model = BertForTokenClassification(BertConfig.from_dict(config))
            model.load_state_dict(expand(load_file(folder / "model.safetensors")), assign=True)
            tokenizer = tokenizer_of(folder)
            positions = torch.arange(model.config.max_position_embeddings)[None]
        except Exception as error:  # safetensors, transformers and tokenizers raise exceptions of many types
            raise UserError(
                f"{folder}: is no whole detector of mentions ({first_line(error)}); copy it again"
            ) from None
        for name, buffer in (("position_ids", positions), ("token_type_ids", torch.zeros_like(positions))):
            model.bert.embeddings.register_buffer(name, buffer, persistent=False)
        return cls(model, tokenizer)

    def __call__(self, texts: Sequence[str]) -> list[Detection]:
        """The mentions and sentences in each of these texts of any length; they are scored together."""
        words = [words_of(self.tokenizer, text) for text in texts]
        return [self._decode(*of_text) for of_text in zip(words, self._scores(words), texts, strict=True)]

    def _scores(self, texts: Sequence[Words]) -> list[np.ndarray]:
        """Scores float32 [p, LABELS] for each text."""
        scores = [np.zeros((len(words.pieces), LABELS), dtype=np.float32) for words in texts]
        windows = [(number, *window) for number, words in enumerate(texts) for window in windows_of(len(words.pieces))]
        windows.sort(key=lambda window: window[1] - window[2])  # the longest first, so that padding is short
        while windows:
            batch_size = max(1, BATCH // (windows[0][2] - windows[0][1] + 2))
            batch, windows = windows[:batch_size], windows[batch_size:]
            inputs = batch_of(
                [(texts[n].pieces[start:end], texts[n].shapes[start:end]) for n, start, end, _, _ in batch],
                self.specials,
            )
            with torch.inference_mode(), autocast(CPU, pick_precision(None, CPU)):
                logits = self.model(**inputs).logits.float()
            for row, (n, start, _, from_piece, to_piece) in enumerate(batch):
                scores[n][from_piece:to_piece] = logits[row, 1 + from_piece - start : 1 + to_piece - start].numpy()
        return scores

    def _decode(self, words: Words, scores: np.ndarray, text: str) -> Detection:
        """The mentions and sentences by a text's scores. A blank line ends both."""
        spans = [(int(start), int(end)) for start, end in words.spans]
        gaps = [text[before:start] for (_, before), (start, _) in itertools.pairwise(spans)]
        opens = [True, *(len(f"{gap}.".splitlines()) > 2 for gap in gaps)][: len(spans)]
        logits = torch.from_numpy(scores[words.first])
        tag_scores = logits[:, :SENTENCE].log_softmax(dim=1).numpy()
        tag_scores[np.ix_(np.flatnonzero(opens), np.flatnonzero(INSIDE))] = -np.inf  # no mention goes over a blank line
        tags = best_tags(tag_scores)
        begins = (logits[:, SENTENCE] > 0).tolist()
        starts = [
            span[0]
            for number, span in enumerate(spans)
            if opens[number] or (begins[number] and not INSIDE[tags[number]])
        ]
        return Detection(mentions_of(tags.tolist(), spans), starts)


@functools.cache
def shipped_tagger() -> MentionTagger:
    """The detector of this repository, loaded once."""
    return MentionTagger.load()
