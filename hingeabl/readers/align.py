"""Text with mentions at character offsets -> a document in DocRED's schema, and back."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from hingeabl.data.schema import Document
from hingeabl.errors import UserError

Span = tuple[int, int]  # [start, end) in characters
IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
BLANK_LINE = re.compile(r"\n\s*\n")
ENDS = set(".!?\u2026")
WIDE_ENDS = set("\u3002\uff01\uff1f")  # of Chinese and Japanese, after which no space comes
CLOSING = set("\"')]}\u201d\u2019\u00bb\u300d\u300f\uff09")
OPENING = set("\"'([{\u201c\u2018\u00ab")
ABBREVIATIONS = set(
    "mr mrs ms dr prof st jr sr vs fig figs no inc ltd co corp al cf ca e.g i.e approx dept gen".split()
)
WARNINGS = {  # what is counted while documents are aligned
    "widened": "{:,} mentions cut a token and are widened to whole tokens",
    "joined": "{:,} sentence ends lie in a mention, so the sentences there are joined",
    "differ": "{:,} mentions have another text than that at their offsets, which is taken",
    "gaps": "{:,} mentions have gaps and are taken from their first start to their last end",
    "lost": "{:,} relations are left out, as they name what has no mention",
    "skipped": "{:,} annotations are left out, as they are neither mentions nor relations",
}


class Mention(NamedTuple):
    """A mention at [start, end) in characters; `place` tells in messages where it stands in the file."""

    start: int
    end: int
    type: str | None
    place: str


def tokenize(text: str) -> list[Span]:
    """The tokens of a text: numbers, words, ideographs, and every other character that is no white space. Combining
    marks belong to what is before them."""
    return [match.span() for match in _token().finditer(text)]


@functools.cache
def _token() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
    letter = rf"[^\W{IDEOGRAPHS}]"
    return re.compile(rf"\d+(?:[.,]\d+)+|{letter}(?:{letter}|[{marks}])*|\S[{marks}]*")


def split_sentences(text: str, tokens: list[Span], breaks: Sequence[int] = ()) -> list[list[Span]]:
    """The tokens of each sentence. One ends at a blank line, at the characters `breaks`, and after . ! ? that white
    space and a capital, a digit or an opening quote or bracket follow, unless the full stop is an abbreviation's."""
    forced = sorted([*breaks, *(match.start() for match in BLANK_LINE.finditer(text))])
    sentences = [tokens[:1]] if tokens else []
    for number, (start, end) in enumerate(tokens[1:], 1):
        before = tokens[number - 1][1]
        is_forced = bisect_left(forced, before) < bisect_left(forced, start)
        if is_forced or _ends_between(text, tokens, number):
            sentences.append([])
        sentences[-1].append((start, end))
    return sentences


def _ends_between(text: str, tokens: list[Span], number: int) -> bool:
    """Whether a sentence may end before this token."""
    opening, is_apart = text[tokens[number][0]], tokens[number - 1][1] < tokens[number][0]
    number -= 1
    while number and text[tokens[number][0]] in CLOSING and tokens[number - 1][1] == tokens[number][0]:
        number -= 1
    start = tokens[number][0]
    if text[start] in WIDE_ENDS:
        return opening not in CLOSING | WIDE_ENDS
    may_open = opening in OPENING or (opening.isalnum() and not opening.islower())
    if text[start] not in ENDS or not is_apart or not may_open:
        return False
    word = text[max(0, start - 20) : start].split()[-1:] if text[start] == "." else []
    return not (word and _is_abbreviation(word[0].lstrip("([{\"'\u201c\u2018")))


def _is_abbreviation(word: str) -> bool:
    """Whether the full stop after a word is the word's: of initials, such as J or U.S, and of ABBREVIATIONS."""
    return word.lower() in ABBREVIATIONS or all(len(part) == 1 and part.isupper() for part in word.split("."))


def align(
    title: str,
    text: str,
    entities: list[list[Mention]],
    where: str,
    counts: Counter[str],
    labels: list[dict[str, Any]] | None = None,
    sents: list[list[Span]] | None = None,
    breaks: Sequence[int] = (),
) -> Document:
    """A document in DocRED's schema.

    `sents` are the tokens of each sentence, in order; without them the text is tokenized and split here. A mention that
    cuts a token is widened to whole tokens; sentences that a mention goes over are joined, and the evidence of labels
    is renumbered. `counts` tells how often, see WARNINGS. A mention's name is the text of its tokens. Raises UserError,
    opening with `where`, for a mention that is not in the text or holds no token.
    """
    given = split_sentences(text, tokenize(text), breaks) if sents is None else sents
    tokens = [token for sentence in given for token in sentence]
    sentence_of = [number for number, sentence in enumerate(given) for _ in sentence]
    starts, ends = [start for start, _ in tokens], [end for _, end in tokens]
    places = [[_tokens_of(mention, starts, ends, text, where, counts) for mention in mentions] for mentions in entities]
    inner = {
        number
        for first, last in (place for mentions in places for place in mentions)
        for number in range(sentence_of[first] + 1, sentence_of[last] + 1)
    }
    counts["joined"] += len(inner)
    new, opens = [], []  # the new number of each given sentence, and the first token of each new one
    seen = 0
    for number, sentence in enumerate(given):
        if number not in inner:
            opens.append(seen)
        new.append(len(opens) - 1)
        seen += len(sentence)
    limits = [*opens, len(tokens)]

    def mention_of(mention: Mention, first: int, last: int) -> dict[str, Any]:
        sentence = new[sentence_of[first]]
        name = " ".join(text[starts[first] : ends[last]].split())
        found = {"name": name, "sent_id": sentence, "pos": [first - opens[sentence], last + 1 - opens[sentence]]}
        return found if mention.type is None else {**found, "type": mention.type}

    document: Document = {
        "title": title,
        "sents": [
            [text[start:end] for start, end in tokens[limits[number] : limits[number + 1]]]
            for number in range(len(opens))
        ],
        "vertexSet": [
            [mention_of(mention, *place) for mention, place in zip(mentions, found, strict=True)]
            for mentions, found in zip(entities, places, strict=True)
        ],
    }
    if labels is not None:
        document["labels"] = [_renumbered(label, new) for label in labels]
    return document


def _renumbered(label: dict[str, Any], new: list[int]) -> dict[str, Any]:
    """A label with the new numbers of the sentences in its evidence."""
    if "evidence" not in label:
        return label
    return {**label, "evidence": list(dict.fromkeys(new[number] for number in label["evidence"]))}


def _tokens_of(
    mention: Mention, starts: list[int], ends: list[int], text: str, where: str, counts: Counter[str]
) -> Span:
    """The first and the last token of a mention."""
    start, end, place = mention.start, mention.end, f"{where}: {mention.place}"
    if not 0 <= start <= end <= len(text):
        raise UserError(
            f"{place}: [{start}, {end}] is not in the text, which has {len(text):,} characters; it must be "
            "[start, end) in characters; correct it"
        )
    first, last = bisect_left(starts, start), bisect_right(ends, end) - 1
    exact = first < len(starts) and last >= 0 and starts[first] == start and ends[last] == end
    if not exact:  # tokens of no length count only where the mention starts or ends with them
        first, last = bisect_right(ends, start), bisect_left(starts, end) - 1
    if first > last or (start == end and not exact):
        raise UserError(f"{place}: [{start}, {end}] holds no token of the text ({text[start:end]!r}); correct it")
    counts["widened"] += starts[first] < start or end < ends[last]
    return first, last


def to_spans(document: Document) -> dict[str, Any]:
    """A checked document with its mentions at character offsets, as spans.py reads it: tokens are joined by spaces,
    sentences by line ends, and `sents` has the offsets of the tokens."""
    sents: list[list[list[int]]] = []
    place = 0
    for sentence in document["sents"]:
        offsets = []
        for token in sentence:
            offsets.append([place, place + len(token)])
            place += len(token) + 1
        place += not sentence
        sents.append(offsets)
    entities = []
    for mentions in document["vertexSet"]:
        found = []
        for mention in mentions:
            first, end = mention["pos"]
            tokens = sents[mention["sent_id"]][first:end]
            more = {"type": mention["type"]} if isinstance(mention.get("type"), str) else {}
            found.append({"start": tokens[0][0], "end": tokens[-1][1], **more})
        entities.append({"mentions": found})
    text = "\n".join(" ".join(sentence) for sentence in document["sents"])
    more = {field: document[field] for field in ("pairs", "labels") if field in document}
    return {"title": document["title"], "text": text, "sents": sents, "entities": entities, **more}


def differ(text: str, written: str) -> bool:
    """Whether a mention's text is another than the one written beside its offsets; white space does not count."""
    return text.split() != written.split()


def warn(name: str, counts: Counter[str]) -> None:
    """Say on stderr, in one line, what was counted; nothing where nothing was."""
    found = [text.format(counts[key]) for key, text in WARNINGS.items() if counts[key]]
    if found:
        print(f"WARNING: {name}: {'; '.join(found)}", file=sys.stderr)
