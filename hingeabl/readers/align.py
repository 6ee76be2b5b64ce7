"""Text with mentions at character offsets -> a document in DocRED's schema, and back."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hingeabl.data.schema import Document
from hingeabl.errors import UserError, print_warning
from hingeabl.readers.offsets import READ_AS, RULE, AnnotatedMention, Counts, Span, mismatch_message

IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
BLANK_LINE = re.compile(r"\n\s*\n")
ENDS = set(".!?\u2026")
WIDE_ENDS = set("\u3002\uff01\uff1f")  # of Chinese and Japanese, which have no space after them
CLOSING = set("\"')]}\u201d\u2019\u00bb\u300d\u300f\uff09")
OPENING = set("\"'([{\u201c\u2018\u00ab")
ABBREVIATIONS = set(
    "mr mrs ms dr prof st jr sr vs fig figs no inc ltd co corp al cf ca e.g i.e approx dept gen".split()
)
WARNINGS = {  # key in Counts -> its part of the warning
    "widened": "{:,} mentions cut a token and are widened to whole tokens",
    "joined": "{:,} sentence ends lie in a mention, so the sentences there are joined",
    "gaps": "{:,} mentions have gaps and are taken from their first start to their last end",
    "lost": "{:,} relations are left out, as they name what has no mention",
    "skipped": "{:,} annotations are left out, as they are neither mentions nor relations",
    "types": "{:,} further types of a mention are left out",
    "twice": "{:,} mentions are at the place of another one of their entity, and are taken once",
    "same": "{:,} labels state what another one states, and are taken once",
    "selves": "{:,} relations are left out, as both their ends are one entity",
    "second": "{:,} annotations of a text by another annotator are left out",
    "empty": "{:,} tasks have no annotation, and become documents without entities",
}


def tokenize(text: str) -> list[Span]:
    """The tokens of a text, [start, end): numbers, words, ideographs, and every other character except white space.
    Combining marks belong to the character before them."""
    return [match.span() for match in _token().finditer(text)]


@functools.cache
def _token() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
    letter = rf"[^\W{IDEOGRAPHS}]"
    return re.compile(rf"\d+(?:[.,]\d+)+|{letter}(?:{letter}|[{marks}])*|\S[{marks}]*")


def split_sentences(text: str, tokens: list[Span], breaks: Sequence[int] = ()) -> list[list[Span]]:
    """The tokens of each sentence. One ends at a blank line, at the characters `breaks`, and after . ! ? if white space
    and a capital, a digit or an opening quote or bracket follow, unless the full stop belongs to an abbreviation."""
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
    """Whether the full stop after a word belongs to it: initials, such as J or U.S, and ABBREVIATIONS."""
    return word.lower() in ABBREVIATIONS or all(len(part) == 1 and part.isupper() for part in word.split("."))


def align(
    title: str,
    text: str,
    entities: list[list[AnnotatedMention]],
    where: str,
    counts: Counter[str],
    labels: list[dict[str, Any]] | None = None,
    sents: list[list[Span]] | None = None,
    breaks: Sequence[int] = (),
    repeats: bool = False,
) -> Document:
    """A document in DocRED's schema.

    `sents` are the tokens of each sentence, in order; without them the text is tokenized and split here. A mention that
    cuts a token is widened to whole tokens; sentences that a mention crosses are joined, and the evidence of labels is
    renumbered. Unless `repeats`, mentions of an entity with the same tokens are taken once, and so are equal labels.
    `counts` counts these changes, see WARNINGS. A mention's name is the text of its tokens. Raises UserError, starting
    with `where`, for a mention that is outside the text or holds no token.
    """
    sentences = split_sentences(text, tokenize(text), breaks) if sents is None else sents
    tokens = [token for sentence in sentences for token in sentence]
    sentence_of = [number for number, sentence in enumerate(sentences) for _ in sentence]
    starts, ends = [start for start, _ in tokens], [end for _, end in tokens]
    aligned = [
        [(mention, _tokens_of(mention, starts, ends, text, where, counts)) for mention in mentions]
        for mentions in entities
    ]
    if not repeats:
        aligned = [_each_once(mentions, counts) for mentions in aligned]
    joined_to_previous = {
        number
        for first, last in (token_span for mentions in aligned for _, token_span in mentions)
        for number in range(sentence_of[first] + 1, sentence_of[last] + 1)
    }
    counts["joined"] += len(joined_to_previous)
    new_number, firsts = [], []  # each sentence's number after joining, and the first token of each joined sentence
    token_count = 0
    for number, sentence in enumerate(sentences):
        if number not in joined_to_previous:
            firsts.append(token_count)
        new_number.append(len(firsts) - 1)
        token_count += len(sentence)
    limits = [*firsts, len(tokens)]

    def mention_of(mention: AnnotatedMention, first: int, last: int) -> dict[str, Any]:
        sentence = new_number[sentence_of[first]]
        name = " ".join(text[starts[first] : ends[last]].split())
        fields = {"name": name, "sent_id": sentence, "pos": [first - firsts[sentence], last + 1 - firsts[sentence]]}
        return fields if mention.type is None else {**fields, "type": mention.type}

    document: Document = {
        "title": title,
        "sents": [
            [text[start:end] for start, end in tokens[limits[number] : limits[number + 1]]]
            for number in range(len(firsts))
        ],
        "vertexSet": [[mention_of(mention, *token_span) for mention, token_span in mentions] for mentions in aligned],
    }
    if labels is not None:
        kept = labels if repeats else _distinct(labels, counts)
        document["labels"] = [_renumbered(label, new_number) for label in kept]
    return document


def _each_once(
    mentions: list[tuple[AnnotatedMention, Span]], counts: Counter[str]
) -> list[tuple[AnnotatedMention, Span]]:
    """An entity's mentions with their tokens, one for each span of tokens: the first, or the first that has a type."""
    by_span: dict[Span, AnnotatedMention] = {}
    for mention, span in mentions:
        if span not in by_span or (by_span[span].type is None and mention.type is not None):
            by_span[span] = mention
    counts["twice"] += len(mentions) - len(by_span)
    return [(mention, span) for span, mention in by_span.items()]


def _distinct(labels: list[dict[str, Any]], counts: Counter[str]) -> list[dict[str, Any]]:
    """Labels without repetition of h, t and r, each with the evidence of all its repetitions."""
    by_key: dict[str, dict[str, Any]] = {}
    for label in labels:
        key = json.dumps([label.get(field) for field in ("h", "t", "r")])  # they are not checked yet
        if key not in by_key:
            by_key[key] = label
            continue
        counts["same"] += 1
        evidence = dict.fromkeys([*by_key[key].get("evidence", []), *label.get("evidence", [])])
        by_key[key] = {**by_key[key], **({"evidence": list(evidence)} if evidence else {})}
    return list(by_key.values())


def _renumbered(label: dict[str, Any], new_number: list[int]) -> dict[str, Any]:
    """A label with the new sentence numbers in its evidence."""
    if "evidence" not in label:
        return label
    return {**label, "evidence": list(dict.fromkeys(new_number[number] for number in label["evidence"]))}


def _tokens_of(
    mention: AnnotatedMention, starts: list[int], ends: list[int], text: str, where: str, counts: Counter[str]
) -> Span:
    """The first and the last token of a mention."""
    start, end, mention_where = mention.start, mention.end, f"{where}: {mention.location}"
    if not 0 <= start <= end <= len(text):
        raise UserError(
            f"{mention_where}: [{start}, {end}] is not in the text, which has {len(text):,} characters; it must be "
            "[start, end) in characters; correct it"
        )
    first, last = bisect_left(starts, start), bisect_right(ends, end) - 1
    exact = first < len(starts) and last >= 0 and starts[first] == start and ends[last] == end
    if not exact:  # empty tokens count only if the mention starts or ends with them
        first, last = bisect_right(ends, start), bisect_left(starts, end) - 1
    if first > last or (start == end and not exact):
        raise UserError(
            f"{mention_where}: [{start}, {end}] holds no token of the text ({text[start:end]!r}); correct it"
        )
    counts["widened"] += starts[first] < start or end < ends[last]
    return first, last


def to_spans(document: Document) -> dict[str, Any]:
    """A checked document with its mentions at character offsets, as spans.py reads it, and the offsets of the tokens as
    `sents`. The text is the document's own if it has the tokens in order; else tokens are joined by spaces and
    sentences by line ends. `repeats` says that equal mentions or labels are to stay."""
    text, sents = _own_text(document) or _joined_text(document)
    entities = []
    for mentions in document["vertexSet"]:
        offsets = []
        for mention in mentions:
            first, end = mention["pos"]
            tokens = sents[mention["sent_id"]][first:end]
            extra = {"type": mention["type"]} if isinstance(mention.get("type"), str) else {}
            offsets.append({"start": tokens[0][0], "end": tokens[-1][1], **extra})
        entities.append({"mentions": offsets})
    extra = {field: document[field] for field in ("pairs", "labels") if field in document}
    if has_repeats(document):
        extra["repeats"] = True
    return {"title": document["title"], "text": text, "sents": sents, "entities": entities, **extra}


def _own_text(document: Document) -> tuple[str, list[list[list[int]]]] | None:
    """The text that a document was read from, and the offsets of its tokens; None if there is none that has the tokens
    in order."""
    text, position = document.get("text"), 0
    if not isinstance(text, str):
        return None
    sents: list[list[list[int]]] = []
    for sentence in document["sents"]:
        sents.append([])
        for token in sentence:
            start = text.find(token, position)
            if start < 0 or text[position:start].strip():
                return None
            position = start + len(token)
            sents[-1].append([start, position])
    return text, sents


def _joined_text(document: Document) -> tuple[str, list[list[list[int]]]]:
    """A document's tokens as one text, and their offsets in it."""
    sents: list[list[list[int]]] = []
    position = 0
    for sentence in document["sents"]:
        offsets = []
        for token in sentence:
            offsets.append([position, position + len(token)])
            position += len(token) + 1
        position += not sentence
        sents.append(offsets)
    return "\n".join(" ".join(sentence) for sentence in document["sents"]), sents


def has_repeats(document: Document) -> bool:
    """Whether a document has mentions or labels that align would take once without `repeats`."""
    spans = [[(mention["sent_id"], *mention["pos"]) for mention in mentions] for mentions in document["vertexSet"]]
    labels = [(label["h"], label["t"], label["r"]) for label in document.get("labels", ())]
    return any(len(set(items)) < len(items) for items in [*spans, labels])


def warn(name: str, counts: Counts) -> None:
    """Print in one line on stderr what was counted, if anything. Raises UserError if most of the stated texts are not
    at their offsets."""
    if 2 * counts["differ"] > counts["told"]:
        problem = mismatch_message(counts["differ"], counts["told"], counts.example)
        raise UserError(f"{name}: {problem}; {RULE}; {counts.cause}")
    warnings = [text.format(counts[key]) for key, text in WARNINGS.items() if counts[key]]
    if counts["differ"]:
        warnings.append(f"{mismatch_message(counts['differ'], counts['told'], counts.example)}; the offsets are taken")
    readings = {key.removeprefix(READ_AS): count for key, count in counts.items() if key.startswith(READ_AS) and count}
    for reading, count in readings.items():
        warnings.append(f"offsets of {count:,} documents are read as {reading}, as the texts of their mentions show")
    if readings and counts.silent:
        warnings.append(f"{counts.silent:,} documents before these tell no texts, and are read as characters")
    if warnings:
        print_warning(f"{name}: {'; '.join(warnings)}")
