"""The tokens of a document in DocRED's schema as running text, with the position of each token in it.

Sentences are joined by one space, and so are tokens, except:
1. no space before closing punctuation and brackets, % and clitics ('s, n't), none after opening brackets and currency
   signs;
2. a " or ' that is a token alternately opens and closes within a sentence; ' after a word in s is a possessive;
3. no space around a hyphen, a slash and a long dash, nor around a short dash between numbers.
Tokens are not changed. Tokens of white space stay, without a space beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hingeabl.data.schema import Document

CLOSING = frozenset(", . ; : ! ? ) ] } % … ” ’ » ° ...".split())
OPENING = frozenset("( [ { $ £ € “ ‘ « # (;".split())
TIGHT = frozenset("- / —".split())
CLITIC = re.compile(r"['’](s|re|ve|ll|d|m)|n['’]t", re.IGNORECASE)

Span = tuple[int, int]  # of characters, [start, end)


def join_tokens(sents: Sequence[Sequence[str]]) -> tuple[str, list[list[Span]]]:
    """Sentences of tokens -> the text, and for each sentence the span of each token in it."""
    text, places = "", []
    for sentence in sents:
        spans = []
        for token, spaced in _with_spaces(sentence):
            text += " " * (spaced and text[-1:].strip() != "")
            spans.append((len(text), len(text) + len(token)))
            text += token
        places.append(spans)
    return text, places


def mention_spans(document: Document, places: Sequence[Sequence[Span]]) -> list[list[tuple[int, int, str]]]:
    """For each entity of a document its mentions (start, end, type) in the text of join_tokens, each once. White-space
    tokens at a mention's ends are cut off, unless it has no others."""

    def spanned(mention: dict[str, Any]) -> tuple[int, int, str]:
        tokens, spans = document["sents"][mention["sent_id"]], places[mention["sent_id"]]
        inside = range(*mention["pos"])
        words = [number for number in inside if tokens[number].strip()] or list(inside)
        return spans[words[0]][0], spans[words[-1]][1], mention["type"]

    return [list(dict.fromkeys(map(spanned, entity))) for entity in document["vertexSet"]]


def gold_of(document: Document) -> tuple[str, list[tuple[int, int, str]], list[int]]:
    """The text of a document, its mentions (start, end, type) in order, each once, and the starts of its sentences."""
    text, places = join_tokens(document["sents"])
    mentions = {mention for entity in mention_spans(document, places) for mention in entity}
    starts = [next((start for start, end in spans if text[start:end].strip()), -1) for spans in places]
    return text, sorted(mentions), [start for start in starts if start >= 0]


def _with_spaces(sentence: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each token of a sentence, and whether there is a space before it."""
    is_open = {'"': False, "'": False}
    glued = False  # no space after the token before
    previous = ""
    for number, token in enumerate(sentence):
        following = sentence[number + 1] if number + 1 < len(sentence) else ""
        spaced, glue = not glued, False
        if token in CLOSING or CLITIC.fullmatch(token) or not token.strip():
            spaced = False
        elif token in OPENING:
            glue = True
        elif token in TIGHT or (token == "–" and previous[-1:].isdigit() and following[:1].isdigit()):
            spaced, glue = False, True
        elif token == "'" and previous.endswith("s") and not is_open["'"]:
            spaced = False
        elif token in is_open:
            spaced, glue = spaced and not is_open[token], not is_open[token]
            is_open[token] = not is_open[token]
        yield token, spaced or number == 0
        glued, previous = glue, token
