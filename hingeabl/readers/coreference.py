"""Joins mentions in plain text that name the same entity, by rules and, if fastcoref is installed, by its clusters.

1. Mentions of one type with the same name are joined, regardless of case and punctuation, of a leading "the" and, for
   persons, of titles (Dr., Mrs. ...); COUNTRIES lists names of one country.
2. A person's name whose words all occur, in this order, in a longer name of another person is joined with that person:
   "Curie" and "Marie" with "Marie Curie". Longer names come first, so "Marie Curie" is joined with "Marie Sklodowska
   Curie" before "Curie" is looked at. Of several such persons the one named first in the text is taken.
3. A name in capitals ("UN", "U.N.") that equals the initials of exactly one entity of type ORG, LOC or MISC is joined
   with it, if it is itself of one of these types. In the initials small words ("of", "the" ...) count all or not at
   all.
4. A name in brackets right after another one of its type is joined with it: "Velmar Press (VP)", "Lodin (formerly
   Lodina)". For places, only names in capitals or after such a word are: "Warsaw (Poland)" are two.

Numbers and times (NUM, TIME) are joined by rule 1 alone. A country and its adjective ("France", "French") stay apart:
DocRED joins them in a third of the cases.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hingeabl.errors import first_line, print_warning

TITLES = frozenset("mr mrs ms miss dr prof professor sir lady lord dame madame president".split())
SMALL_WORDS = frozenset("of the and for in on a an de la du et von und der".split())
ACRONYM_TYPES = ("ORG", "LOC", "MISC")  # types that acronyms stand for
EXACT_TYPES = ("NUM", "TIME")  # types that are joined only if the names are the same
OPENS = re.compile(r"""["”’']?\s*\(["“‘']?(?:formerly|also|or|the|known|as|abbreviated|previously|[;,\s])*["“‘']?""")
CLOSES = re.compile(r"""["”’']?[);,]""")
COUNTRIES = {  # name of a country in the form of _words -> its most frequent name
    **dict.fromkeys(("united states of america", "us", "usa", "america"), "united states"),
    **dict.fromkeys(("uk",), "united kingdom"),
    **dict.fromkeys(("peoples republic of china", "prc"), "china"),
}
NO_LETTERS = re.compile(r"""['’]s\Z|["'“”‘’.,]""")
PRONOUNS = frozenset("he him his himself she her hers herself it its itself they them their theirs themselves".split())
Clusters = Sequence[Sequence[tuple[int, int]]]  # of a document: spans of characters, [start, end)


@dataclass(frozen=True)
class Mention:
    """One mention: its text, one of DocRED's six types, and the span of characters [start, end) in the document."""

    name: str
    type: str
    start: int
    end: int


Entities = list[list[Mention]]


def join_by_rules(mentions: Iterable[Mention], text: str = "") -> Entities:
    """The entities of a document by the rules above: each mention is in one of them, both in the text's order. Rule 4
    needs the document's text."""
    mentions = list(mentions)
    return _join_brackets(_join_acronyms(_join_persons(_join_same(mentions))), mentions, text)


def merge_by_clusters(entities: Entities, clusters: Clusters) -> Entities:
    """Join entities that have mentions of one type in one cluster, except numbers and times.

    A span stands for the mention that equals it; other spans have no effect.
    """
    for cluster in clusters:
        spans = {tuple(span) for span in cluster}
        for entity_type in sorted({mention.type for entity in entities for mention in entity} - set(EXACT_TYPES)):
            to_join = [
                entity
                for entity in entities
                if any(mention.type == entity_type and (mention.start, mention.end) in spans for mention in entity)
            ]
            entities = _merged(entities, to_join)
    return _in_order(entities)


def pronouns_of(text: str, mentions: Iterable[Mention], clusters: Clusters) -> list[Mention]:
    """The pronouns in clusters that hold a mention other than a number or a time, as mentions of the type of the
    cluster's first such mention. A pronoun that overlaps a mention is left out."""
    mentions = list(mentions)
    taken = {character for mention in mentions for character in range(mention.start, mention.end)}
    mention_at = {(mention.start, mention.end): mention for mention in mentions if mention.type not in EXACT_TYPES}
    pronouns = []
    for cluster in clusters:
        first = next((mention_at[span] for span in map(tuple, sorted(cluster)) if span in mention_at), None)
        for start, end in cluster if first else ():
            if text[start:end].casefold() in PRONOUNS and start not in taken:
                pronouns.append(Mention(text[start:end], first.type, start, end))  # type: ignore[union-attr]
                taken.update(range(start, end))
    return pronouns


def find_clusters(text: str) -> Clusters:
    """fastcoref's clusters of a text; none if it is not installed. Warns if its model cannot be loaded."""
    predictor = _fastcoref()
    return predictor.predict(texts=[text])[0].get_clusters(as_strings=False) if predictor else []


@functools.cache
def _fastcoref() -> Any:
    try:
        from fastcoref import FCoref
    except ImportError:
        return None
    try:
        return FCoref()
    except Exception as error:  # of the hub, the network, the file system or torch
        problem = f"fastcoref's model cannot be loaded ({first_line(error)})"
        print_warning(f"{problem}; mentions are joined by rules alone")
        return None


def _join_same(mentions: Iterable[Mention]) -> Entities:
    entities: dict[tuple[str, tuple[str, ...]], list[Mention]] = defaultdict(list)
    for mention in mentions:
        entities[mention.type, _words(mention)].append(mention)
    return _in_order(entities.values())


def _join_persons(entities: Entities) -> Entities:
    persons = [entity for entity in entities if entity[0].type == "PER"]
    for entity in sorted(persons, key=lambda entity: -len(_words(entity[0]))):
        fits = functools.partial(_is_part, _words(entity[0]))
        if persons := _others_that_fit(entities, entity, fits):
            entities = _joined(entities, entity, persons[0])
    return entities


def _is_part(words: tuple[str, ...], longer: Mention) -> bool:
    if longer.type != "PER":
        return False
    others = _words(longer)
    rest = iter(others)
    return len(words) < len(others) and all(word in rest for word in words)


def _join_acronyms(entities: Entities) -> Entities:
    for entity in list(entities):
        letters = entity[0].name.replace(".", "")
        if entity[0].type in ACRONYM_TYPES and len(letters) > 1 and letters.isalpha() and letters.isupper():
            expansions = _others_that_fit(entities, entity, functools.partial(_is_acronym, letters))
            if len(expansions) == 1:
                entities = _joined(entities, entity, expansions[0])
    return entities


def _is_acronym(letters: str, longer: Mention) -> bool:
    return longer.type in ACRONYM_TYPES and letters in _initials(longer)


def _join_brackets(entities: Entities, mentions: Iterable[Mention], text: str) -> Entities:
    for before, inside in itertools.pairwise(sorted(mentions, key=_place)):
        is_named = before.type == inside.type and inside.type not in EXACT_TYPES
        if is_named and OPENS.fullmatch(text, before.end, inside.start) and CLOSES.match(text, inside.end):
            between = text[before.end : inside.start]
            if inside.type == "LOC" and not (inside.name.isupper() or any(map(str.isalpha, between))):
                continue  # "Warsaw (Poland)"
            holders = [entity for entity in entities if before in entity or inside in entity]
            entities = _in_order(_merged(entities, holders))
    return entities


def _others_that_fit(entities: Entities, entity: list[Mention], fits: Callable[[Mention], bool]) -> Entities:
    """The other entities that have a mention that fits, in the text's order."""
    members = set(entity)
    return [other for other in entities if any(map(fits, other)) and members.isdisjoint(other)]


def _joined(entities: Entities, entity: list[Mention], other: list[Mention]) -> Entities:
    """`other` joined with the entity that has the mentions of `entity`."""
    holder = next(candidate for candidate in entities if set(candidate) & set(entity))
    return _in_order(_merged(entities, [other, holder]))


def _merged(entities: Entities, parts: Entities) -> Entities:
    if len(parts) < 2:
        return entities
    others = [entity for entity in entities if not any(entity is part for part in parts)]
    return [*others, [mention for part in parts for mention in part]]


def _place(mention: Mention) -> tuple[int, int]:
    return mention.start, mention.end


def _in_order(entities: Iterable[list[Mention]]) -> Entities:
    return sorted((sorted(entity, key=_place) for entity in entities), key=lambda entity: _place(entity[0]))


@functools.lru_cache(maxsize=100_000)
def _words(mention: Mention) -> tuple[str, ...]:
    """A name's words for comparison, see rule 1; a step that would leave no words is skipped."""
    words = tuple(mention.name.casefold().split())
    if mention.type == "PER":
        words = tuple(word for word in words if word.rstrip(".") not in TITLES) or words
    words = words[1:] if len(words) > 1 and words[0] == "the" else words
    words = tuple(filter(None, (NO_LETTERS.sub("", word) for word in words))) or words
    return tuple(COUNTRIES.get(" ".join(words), " ".join(words)).split()) if mention.type == "LOC" else words


def _initials(mention: Mention) -> Iterator[str]:
    """A longer name's initials: of all words, and without small ones."""
    words = mention.name.split()
    for chosen in (words, [word for word in words if word.casefold() not in SMALL_WORDS]):
        if len(chosen) > 1:
            yield "".join(word[0] for word in chosen).upper()
