"""Tokens, sentences, and mentions at character offsets: what becomes of them in DocRED's schema, and back."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hingeabl.data.schema import check_document
from hingeabl.errors import UserError
from hingeabl.readers.align import AnnotatedMention, align, split_sentences, to_spans, tokenize, warn
from hingeabl.readers.offsets import Counts
from hingeabl.readers.spans import from_spans

UNTIMED = settings(deadline=None, database=None, derandomize=True)


def tokens_of(text):
    return [text[start:end] for start, end in tokenize(text)]


def sentences_of(text, breaks=()):
    return [text[sentence[0][0] : sentence[-1][1]] for sentence in split_sentences(text, tokenize(text), breaks)]


def aligned(text, *spans, counts=None, **more):
    """The document of a text with one entity for each span."""
    entities = [[AnnotatedMention(start, end, None, f"m{number}")] for number, (start, end) in enumerate(spans)]
    return align("T", text, entities, "file", Counter() if counts is None else counts, **more)


def mentions(document):
    return [(m["name"], m["sent_id"], *m["pos"]) for entity in document["vertexSet"] for m in entity]


# --- tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n\t\u00a0\u3000", []),
        ("Mira's x-ray, 3rd.", ["Mira", "'", "s", "x", "-", "ray", ",", "3rd", "."]),
        ("1,234.5mg in 1987.", ["1,234.5", "mg", "in", "1987", "."]),
        ("snake_case", ["snake_case"]),
        ("Jose\u0301 caf\u00e9", ["Jose\u0301", "caf\u00e9"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u2764\ufe0fx",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u2764\ufe0f", "x"],
        ),
        ("\u6771\u4eacTokyo\u6771", ["\u6771", "\u4eac", "Tokyo", "\u6771"]),
        ("a\U0001f600b", ["a", "\U0001f600", "b"]),
    ],
)
def test_numbers_words_ideographs_and_other_characters_are_tokens(text, tokens):
    assert tokens_of(text) == tokens


@UNTIMED
@given(st.text())
def test_tokens_hold_every_character_but_white_space_once_and_in_order(text):
    found = tokenize(text)
    assert "".join(text[start:end] for start, end in found) == "".join(text.split())
    assert all(end <= start for (_, end), (start, _) in pairwise(found))


# --- sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Anna left!", "Why?", "2 days later.", '"Yes," she said.'],
        ['He said "Go."', "Then he left (at six.)", "\u00abSo\u00bb it was."],
        ["Dr. Abel and J. R. R. Tolkien met vs. Smith.", "The U.S. Army (cf. Abel, e.g. Mira) came."],
        ["See p.53 and 1.5 mg. no capital. follows here, nor here.Anna"],
        ["Wait...", "What?!", "Yes\u2026", "\u00c9lan."],
        ["Fig. 3 shows 5.", "The end"],
        ["It was J!", "He joined NATO.", "It rained .", '" Then he left .'],
    ],
)
def test_sentences_end_at_their_marks_but_not_at_abbreviations(sentences):
    assert sentences_of(" ".join(sentences)) == sentences


def test_chinese_sentences_end_without_white_space():
    assert sentences_of("\u4ed6\u6765\u3002\u300c\u597d\uff01\uff1f\u300d\u8d70\u3002") == [
        "\u4ed6\u6765\u3002",
        "\u300c\u597d\uff01\uff1f\u300d",
        "\u8d70\u3002",
    ]


def test_an_empty_line_and_a_given_break_end_a_sentence_and_one_line_end_does_not():
    assert sentences_of("a title\n\nthe text\r\n \r\ngoes\non") == ["a title", "the text", "goes\non"]
    assert sentences_of("a title\nthe text", [7]) == ["a title", "the text"]
    assert sentences_of("a\n\nb\nc", [4]) == ["a", "b", "c"]
    assert sentences_of("\n\na title", [0]) == ["a title"]
    assert sentences_of("") == []


# --- mentions


def test_offsets_become_tokens_of_sentences():
    counts = Counter()
    text = "Mira  Talvik left.\nIn 1987 \u00e9l\u00e9ve \U0001f600 Velmar\nPress rose."
    places = [text.index(name) for name in ("Mira", "1987", "\u00e9l", "Velmar")]
    found = aligned(
        text,
        (0, 12),
        (places[1], places[1] + 4),
        (places[2], places[2] + 5),
        (places[3], places[3] + 12),
        counts=counts,
    )
    assert found["sents"] == [
        ["Mira", "Talvik", "left", "."],
        ["In", "1987", "\u00e9l\u00e9ve", "\U0001f600", "Velmar", "Press", "rose", "."],
    ]
    assert mentions(found) == [
        ("Mira Talvik", 0, 0, 2),
        ("1987", 1, 1, 2),
        ("\u00e9l\u00e9ve", 1, 2, 3),
        ("Velmar Press", 1, 4, 6),
    ]
    assert not counts.total() and found["title"] == "T" and "labels" not in found


@pytest.mark.parametrize(
    ("span", "mention", "widened"),
    [
        ((0, 4), ("Mira", 0, 0, 1), 0),
        ((1, 4), ("Mira", 0, 0, 1), 1),
        ((0, 3), ("Mira", 0, 0, 1), 1),
        ((2, 8), ("Mira Talvik", 0, 0, 2), 1),
        ((4, 12), ("Talvik", 0, 1, 2), 0),  # white space around it cuts nothing
        ((11, 16), ("left", 0, 2, 3), 0),
    ],
)
def test_a_mention_that_cuts_a_token_is_widened_and_counted(span, mention, widened):
    counts = Counter()
    assert mentions(aligned("Mira Talvik left", span, counts=counts)) == [mention]
    assert counts["widened"] == widened


@pytest.mark.parametrize(
    ("span", "told"),
    [
        ((0, 99), r"^file: m0: \[0, 99\] is not in the text, which has 9 characters"),
        ((-1, 2), r"m0: \[-1, 2\] is not in the text"),
        ((3, 2), r"m0: \[3, 2\] is not in the text"),
        ((2, 2), r"m0: \[2, 2\] holds no token of the text \(''\)"),
        ((4, 5), r"m0: \[4, 5\] holds no token of the text \(' '\)"),
        ((9, 9), r"m0: \[9, 9\] holds no token"),
    ],
)
def test_a_mention_outside_the_text_or_without_token_is_refused(span, told):
    with pytest.raises(UserError, match=told):
        aligned("Mira left", span)


def test_sentences_in_a_mention_are_joined_and_evidence_renumbered():
    counts = Counter()
    text = "One. Two. Three. Four. Five."
    labels = [{"h": 0, "t": 1, "r": "P1", "evidence": [0, 2, 3, 1, 4]}, {"h": 1, "t": 0, "r": "P2"}]
    given_sents = split_sentences(text, tokenize(text))
    found = aligned(text, (5, 21), (23, 27), (10, 15), counts=counts, labels=labels, sents=given_sents)
    assert [" ".join(sentence) for sentence in found["sents"]] == ["One .", "Two . Three . Four .", "Five ."]
    assert mentions(found) == [("Two. Three. Four", 1, 0, 5), ("Five", 2, 0, 1), ("Three", 1, 2, 3)]
    assert found["labels"] == [{"h": 0, "t": 1, "r": "P1", "evidence": [0, 1, 2]}, {"h": 1, "t": 0, "r": "P2"}]
    assert labels[0]["evidence"] == [0, 2, 3, 1, 4] and counts == Counter(joined=2)


def test_what_is_counted_is_one_line_and_nothing_where_all_is_well(capsys):
    warn("file", Counts(widened=0))
    assert not any(capsys.readouterr())
    counts = Counts(widened=1200, joined=2, told=9, differ=3, gaps=4, lost=5, skipped=6, twice=7, same=8, selves=9)
    counts.example = "m: 'a', where 'b' is at [0, 1]"
    warn("file", counts)
    assert capsys.readouterr().err == (
        "WARNING: file: 1,200 mentions cut a token and are widened to whole tokens; 2 sentence ends lie in a mention, "
        "so the sentences there are joined; 4 mentions have gaps and are taken from their first start to their last "
        "end; 5 relations are left out, as they name what has no mention; 6 annotations are left out, as they are "
        "neither mentions nor relations; 7 mentions are at the place of another one of their entity, and are taken "
        "once; 8 labels state what another one states, and are taken once; 9 relations are left out, as both their "
        "ends are one entity; 3 of 9 mentions (33.3%) have another text than that at their offsets, such as m: 'a', "
        "where 'b' is at [0, 1]; the offsets are taken\n"
    )


# --- back to offsets


def test_a_document_becomes_text_with_offsets():
    document = {
        "title": "T",
        "sents": [["Mira", "left"], [], ["", "New York"]],
        "vertexSet": [
            [{"name": "Mira", "sent_id": 0, "pos": [0, 1], "type": "PER"}],
            [],
            [{"name": "x", "sent_id": 2, "pos": [0, 2]}],
        ],
        "labels": [{"h": 0, "t": 2, "r": "P1", "evidence": [2]}],
    }
    assert to_spans(document) == {
        "title": "T",
        "text": "Mira left\n\n New York",
        "sents": [[[0, 4], [5, 9]], [], [[11, 11], [12, 20]]],
        "entities": [
            {"mentions": [{"start": 0, "end": 4, "type": "PER"}]},
            {"mentions": []},
            {"mentions": [{"start": 11, "end": 20}]},
        ],
        "labels": document["labels"],
    }


@st.composite
def documents(draw):
    """Documents in DocRED's schema with tokens of any text."""
    sents = draw(st.lists(st.lists(st.text(max_size=4), max_size=4), max_size=4))
    places = [
        (s, first, end)
        for s, sent in enumerate(sents)
        for first in range(len(sent))
        for end in range(first + 1, len(sent) + 1)
    ]
    mentions = st.lists(st.sampled_from(places), max_size=3) if places else st.just([])
    entities = draw(st.lists(mentions, max_size=3))
    document = {
        "title": draw(st.text()),
        "sents": sents,
        "vertexSet": [[{"sent_id": s, "pos": [first, end]} for s, first, end in entity] for entity in entities],
    }
    if draw(st.booleans()):
        evidence = st.lists(st.sampled_from(range(len(sents))), unique=True) if sents else st.just([])
        document["labels"] = [{"h": 0, "t": 0, "r": "P1", "evidence": draw(evidence)} for _ in entities]
    return document


@UNTIMED
@given(documents())
@example(
    {
        "title": "",
        "sents": [["", "", "a"]],
        "vertexSet": [[{"sent_id": 0, "pos": [0, 1]}, {"sent_id": 0, "pos": [1, 3]}]],
    }
)
def test_documents_are_the_same_after_the_way_to_spans_and_back(document):
    counts = Counts()
    found = from_spans(json.loads(json.dumps(to_spans(document))), "file", "none", counts)
    check_document(found, "found")
    for entity in found["vertexSet"]:
        for mention in entity:
            tokens = document["sents"][mention["sent_id"]][slice(*mention["pos"])]
            assert mention.pop("name") == " ".join(" ".join(tokens).split())
    assert found == document and not counts.total()


@st.composite
def texts_with_spans(draw):
    text = draw(st.text(st.sampled_from('ab1.,! \n"A\u0301\u6771\U0001f600'), min_size=1, max_size=40))
    place = st.integers(0, len(text))
    return text, [tuple(sorted(draw(st.tuples(place, place)))) for _ in range(draw(st.integers(0, 4)))]


@UNTIMED
@given(texts_with_spans())
def test_any_mention_holds_its_own_text_or_is_refused(drawn):
    text, spans = drawn
    for span in spans:
        if not text[slice(*span)].split():
            with pytest.raises(UserError, match="holds no token"):
                aligned(text, span)
    spans = [span for span in spans if text[slice(*span)].split()]
    found = aligned(text, *spans)
    check_document(found, "found")
    assert "".join("".join(sentence) for sentence in found["sents"]) == "".join(text.split())
    for span, (mention,) in zip(spans, found["vertexSet"], strict=True):
        tokens = found["sents"][mention["sent_id"]][slice(*mention["pos"])]
        assert "".join(tokens) == "".join(mention["name"].split())
        assert "".join(text[slice(*span)].split()) in "".join(tokens)
