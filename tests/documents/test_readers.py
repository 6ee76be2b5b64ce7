"""Spans, PubTator and brat: what becomes of good input, and what is told of bad input."""

import gzip
import io
import json

import pytest

from hingeabl.errors import UserError
from hingeabl.readers.any_format import read_format

TEXT = "Mira Talvik was born in Ostrand. She left."
SPANS = {
    "title": "Mira",
    "text": TEXT,
    "entities": [
        {"type": "PER", "mentions": [{"start": 0, "end": 11}, [33, 36], {"start": 5, "end": 11, "type": "MISC"}]},
        {"mentions": [[24, 31]]},
        {"mentions": []},
    ],
    "labels": [{"h": 0, "t": 1, "r": "P19"}],
}
SENTS = [["Mira", "Talvik", "was", "born", "in", "Ostrand", "."], ["She", "left", "."]]
EXPECTED = {
    "title": "Mira",
    "sents": SENTS,
    "vertexSet": [
        [
            {"name": "Mira Talvik", "sent_id": 0, "pos": [0, 2], "type": "PER"},
            {"name": "She", "sent_id": 1, "pos": [0, 1], "type": "PER"},
            {"name": "Talvik", "sent_id": 0, "pos": [1, 2], "type": "MISC"},
        ],
        [{"name": "Ostrand", "sent_id": 0, "pos": [5, 6]}],
        [],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P19"}],
}
PUBTATOR = (
    "7|t|Iodide in a c\u00e6cum\n7|a|NIS (symporter) carries iodide; \U0001f600 TPO too.\n"
    "7\t0\t6\tIodide\tChemical\tD1\n7\t18\t21\tNIS\tGene\t6528,11\n7\t42\t48\tiodide\tChemical\t D1 ; D1\n"
    "7\t52\t55\tTPO\tGene\t-\n7\t56\t59\ttoo\tGene\t-1\n7\tBinds\t11\tD1\tNovel\n7\tBinds\tD9\tD1\n7\tBinds\tD1\tD9\n"
)
ANN = (
    "T1\tPER 0 11\tMira Talvik\nT2\tLOC 24 31\tOstrand\nT3\tPER 33 36\tShe\nT4\tPER 0 4;5 11\tMira Talvik\n"
    "#1\tAnnotatorNotes T1\ta note\nA1\tSure T1\nN1\tReference T1 Wiki:5\tMira\n\n"
    "*\tEquiv T1 T3\nR1\tP19 Arg1:T3 Arg2:T2\t\nR2\tCoref Anaphora:T4 Antecedent:T3\n"
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


def read(data, kind=None, name="docs", labels=True, **more):
    """Every document of bytes, a text or a value."""
    data = data if isinstance(data, str | bytes) else json.dumps(data)
    data = data if isinstance(data, bytes) else data.encode()
    return list(read_format(io.BytesIO(data), name, kind, typed=False, labels=labels, **more))


def brat(folder, ann=ANN, text=TEXT, named="story.ann"):
    """The documents of brat's two files, written to a folder."""
    (folder / "story.ann").write_bytes(ann if isinstance(ann, bytes) else ann.encode())
    (folder / "story.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with (folder / named).open("rb") as file:
        return list(read_format(file, str(folder / named), None, typed=False, labels=True))


def told(capsys):
    """What was written to stderr, without the program's name for it."""
    return capsys.readouterr().err.removeprefix("WARNING: ")


# --- spans


def test_spans_become_a_document(capsys):
    assert read(SPANS) == read([SPANS]) == [EXPECTED]
    other = {"title": "Talvik"}
    found = read(json.dumps(SPANS) + "\r\n" + json.dumps(SPANS | other, indent=1))
    assert found == [EXPECTED, EXPECTED | other]
    assert not any(capsys.readouterr())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_spans_are_read_in_every_encoding_packed_or_not(encoding, pack):
    text = "\U0001f600 \u00c9lan\r\nrose"
    document = {"text": text, "entities": [{"mentions": [[2, 6]]}]}
    (found,) = read(pack(json.dumps(document, ensure_ascii=False).encode(encoding)))
    assert found["title"] == "document 0" and found["sents"] == [["\U0001f600", "\u00c9lan", "rose"]]
    assert found["vertexSet"] == [[{"name": "\u00c9lan", "sent_id": 0, "pos": [1, 2]}]]


def test_given_sentences_are_taken_and_evidence_with_them(capsys):
    sents = [[[0, 4], [5, 11]], [], [[12, 31], [31, 32]]]
    labels = [{"h": 0, "t": 1, "r": "P19", "evidence": [2]}]
    (found,) = read(
        {"text": TEXT, "entities": [{"mentions": [[0, 4]]}, {"mentions": [[24, 31]]}], "sents": sents, "labels": labels}
    )
    assert found["sents"] == [["Mira", "Talvik"], [], ["was born in Ostrand", "."]] and found["labels"] == labels
    assert found["vertexSet"][1] == [{"name": "was born in Ostrand", "sent_id": 2, "pos": [0, 1]}]
    assert told(capsys) == "docs: 1 mentions cut a token and are widened to whole tokens\n"


def test_labels_are_not_looked_at_where_none_are_wanted():
    for labels in ("none", [{"h": 99, "evidence": [1]}], {}):
        (found,) = read({**SPANS, "labels": labels}, labels=False)
        assert found == {field: EXPECTED[field] for field in ("title", "sents", "vertexSet")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, r"text: has the wrong type; it must be a string"),
        ({"entities": {}}, r"entities: has the wrong type; it must be a list of objects with mentions"),
        ({"title": 5}, r"title: has the wrong type; it must be a string"),
        ({"sents": 5}, r"sents: has the wrong type; it must be a list of sentences"),
        ({"labels": 5}, r"labels: has the wrong type; it must be a list"),
        ({"entities": [[[0, 4]]]}, r"entities\[0\]: is not an object with a list of mentions"),
        ({"entities": [{"mentions": 4}]}, r"entities\[0\]: is not an object with a list of mentions"),
        (
            {"entities": [{"mentions": [[0, 4], [1.0, 2]]}]},
            r"entities\[0\]\.mentions\[1\]: \[1\.0, 2\] is not \{start, end\}",
        ),
        ({"entities": [{"mentions": [[0, True]]}]}, r"entities\[0\]\.mentions\[0\]: \[0, True\] is not"),
        (
            {"entities": [{"mentions": [{"begin": 0, "end": 4}]}]},
            r"entities\[0\]\.mentions\[0\]: \{'begin': 0, 'end': 4\} is not",
        ),
        ({"entities": [{"mentions": [[0, 4, 5]]}]}, r"entities\[0\]\.mentions\[0\]: \[0, 4, 5\] is not"),
        ({"entities": [{"mentions": ["Mira"]}]}, r"entities\[0\]\.mentions\[0\]: 'Mira' is not"),
        ({"entities": [{"type": 5, "mentions": [[0, 4]]}]}, r"entities\[0\]\.mentions\[0\]: type 5 is not a string"),
        ({"entities": [{"mentions": [[40, 99]]}]}, r"entities\[0\]\.mentions\[0\]: \[40, 99\] is not in the text"),
        ({"sents": ["Mira"]}, r"sents\[0\]: must be a list of tokens, each \[start, end\]"),
        ({"sents": [[[0, 4]], [[3, 9]]]}, r"sents\[1\]\[0\]: \[3, 9\] is not \[start, end\].*after the token before"),
        ({"sents": [[[0, 43]]]}, r"sents\[0\]\[0\]: \[0, 43\] is not \[start, end\]"),
        ({"sents": [[[4, 2]]]}, r"sents\[0\]\[0\]: \[4, 2\] is not \[start, end\]"),
        ({"labels": ["P19"]}, r"labels\[0\]: is not an object with h, t and r"),
        (
            {"labels": [{"h": 0, "t": 1, "r": "P19", "evidence": [0]}]},
            r"labels\[0\]\.evidence: numbers sentences, but there are no sents",
        ),
        (
            {"labels": [{"h": 0, "t": 1, "r": "P19", "evidence": 3}], "sents": []},
            r"labels\[0\]\.evidence: 3 must be a list of numbers of sents",
        ),
        (
            {"labels": [{"evidence": [1]}], "sents": [[[0, 4]]]},
            r"labels\[0\]\.evidence: \[1\] must be a list of numbers of sents",
        ),
        (
            {"labels": [{"evidence": [-1]}], "sents": [[[0, 4]]]},
            r"labels\[0\]\.evidence: \[-1\] must be a list of numbers of sents",
        ),
        ({"entities": [[0, 4, "PER"]]}, r'entities\[0\]: is not an object .*, such as \{"mentions": \[\[0, 4\]\], '),
        (
            {"entities": [{"mentions": [{"start": 0, "end": 4, "label": "PER"}]}]},
            r"entities\[0\]\.mentions\[0\]: has 'label'; did you mean 'type'",
        ),
        ({"entities": [{"label": "PER", "mentions": []}]}, r"entities\[0\]: has 'label'; did you mean 'type'"),
        ({"labels": [{"h": 0, "t": 9, "r": "P19"}]}, r"labels\[0\]\.t: 9 is not an entity of a document that has 3"),
    ],
)
def test_bad_spans_are_told_by_document_and_field(change, message):
    with pytest.raises(UserError, match=rf"^docs: document 0( \('Mira'\))?: {message}"):
        read({**SPANS, **change}, "spans")


@pytest.mark.parametrize(
    ("field", "message"),
    [("doc_id", "has 'doc_id'; did you mean 'title'"), ("relations", "has 'relations'; did you mean 'labels'")],
)
def test_another_name_of_a_field_is_told(field, message):
    document = {"text": TEXT, "entities": [], field: "a" if field == "doc_id" else []}
    with pytest.raises(UserError, match=f"^docs: document 0: {message}"):
        read(document)


def test_the_second_document_is_named_and_titles_are_optional():
    with pytest.raises(UserError, match=r"^docs: document 1: text: is missing"):
        read([SPANS, {"entities": []}], "spans")
    with pytest.raises(UserError, match=r"^docs: document 1: broken JSON"):
        read(json.dumps(SPANS) + '{"text": ', "spans")
    with pytest.raises(UserError, match=r"^docs: is empty"):
        read("", "spans")
    with pytest.raises(
        UserError, match=r"entities: is missing; it has 'spans' instead: write each of them as an entity"
    ):
        read({"text": TEXT, "spans": [{"start": 0, "end": 4, "label": "PER"}]})


# --- PubTator


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pubtator_becomes_documents_by_identifier(encoding, ends, capsys):
    text = ("\n\n" + PUBTATOR + " \n\n8|t|Only a title").replace("\n", ends)
    first, second = read(text.encode(encoding))
    assert second == {"title": "8", "sents": [["Only", "a", "title"]], "vertexSet": [], "labels": []}
    assert first["title"] == "7" and first["sents"][0] == ["Iodide", "in", "a", "c\u00e6cum"]
    words = [*("NIS", "(", "symporter", ")", "carries", "iodide", ";", "\U0001f600", "TPO", "too", ".")]
    assert first["sents"][1:] == [words]
    assert first["vertexSet"] == [
        [
            {"name": "Iodide", "sent_id": 0, "pos": [0, 1], "type": "Chemical"},
            {"name": "iodide", "sent_id": 1, "pos": [5, 6], "type": "Chemical"},
        ],
        [{"name": "NIS", "sent_id": 1, "pos": [0, 1], "type": "Gene"}],
        [{"name": "NIS", "sent_id": 1, "pos": [0, 1], "type": "Gene"}],
        [{"name": "TPO", "sent_id": 1, "pos": [8, 9], "type": "Gene"}],
        [{"name": "too", "sent_id": 1, "pos": [9, 10], "type": "Gene"}],
    ]
    assert first["labels"] == [{"h": 2, "t": 0, "r": "Binds"}]
    assert told(capsys) == "docs: 2 relations are left out, as they name what has no mention\n"


@pytest.mark.parametrize(
    ("fields", "entities"),
    [
        ("Gene", 1),
        ("Gene\t", 1),
        ("\tD1", 1),
        ("Gene\tD1|D2", 1),
        ("Gene\tD1|D2\tone|two", 2),
        ("Gene\tD1,D2;D3,D1,-", 3),
        ("Gene\tNone,D1", 1),
        ("Gene\ttmVar:p|SUB|V|600|E;HGVS:p.V600E;VariantGroup:0", 1),
    ],
)
def test_identifiers_are_parted_as_pubtators_files_have_them(fields, entities):
    (found,) = read(f"7|t|Iodide\n7|a|\n7\t0\t6\tIodide\t{fields}\n")
    assert [entity[0]["name"] for entity in found["vertexSet"]] == ["Iodide"] * entities
    assert ("type" in found["vertexSet"][0][0]) == fields.startswith("Gene")


def test_mentions_that_differ_from_the_text_or_cut_a_token_are_counted(capsys):
    read("7|t|Iodide\n7|a|NIS\n7\t0\t3\tIod\tC\tD1\n7\t7\t10\tTPO\tG\t1\n7\t0\t10\tIodide  NIS\tG\t1\n")
    assert told(capsys) == (
        "docs: 1 mentions cut a token and are widened to whole tokens; 1 sentence ends lie in a mention, so the "
        "sentences there are joined; 1 of 3 mentions (33.3%) have another text than that at their offsets, such as "
        "docs: document '7': line 4: 'TPO', where 'NIS' is at [7, 10]; the offsets are taken\n"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"docs: is empty; it must hold documents in PubTator's format"),
        (" \n\t\n", r"docs: is empty"),
        ("\nno title\n", r"docs: line 2: 'no title' does not open a document; .* must be number\|t\|title"),
        ("7|a|An abstract", r"docs: line 1: '7\|a\|An abstract' does not open"),
        ("7|t|A\n8|a|B", r"docs: document '7': line 2: '8\|a\|B' is of another document; put an empty line"),
        ("7|t|A\n7|a|B\n8\t0\t1\tA\tG\t1", r"docs: document '7': line 3: .* is of another document"),
        ("7|t|A\n7|a|B\n7|a|C", r"docs: document '7': line 3: .* is of another document"),
        ("7|t|A\n7|a|B\n7\t0\t1\tA", r"docs: document '7': line 3: .* is neither a mention .* nor a relation"),
        ("7|t|A\n7|a|B\n7\t0\tx\tA\tG\t1", r"docs: document '7': line 3: .* is neither a mention"),
        (f"7|t|A\n7|a|B\n7\t0\t{'9' * 5000}\tA\tG\t1", r"docs: document '7': line 3: .* is neither a mention"),
        ("7|t|A\n7|a|B\n7\t\t1\t2", r"docs: document '7': line 3: .* is neither a mention"),
        ("7|t|A\n7|a|B\n7\tCID\t1", r"docs: document '7': line 3: .* is neither a mention"),
        ("7|t|A\n7|a|B\n7\t0\t9\tA\tG\t1", r"docs: document '7': line 3: \[0, 9\] is not in the text, which has 3"),
        ("7|t|A\n\n7|t|A\n7\t1\t2\t\tG\t1", r"docs: document '7': line 4: \[1, 2\] holds no token"),
        ("7|t|A\n7|a|" + "B" * 2**25, r"docs: line 2: is longer than 16,777,216 characters"),
    ],
)
def test_bad_pubtator_is_told_by_line(lines, message):
    with pytest.raises(UserError, match=f"^{message}"):
        read(lines, "pubtator")


# --- brat


@pytest.mark.parametrize("named", ["story.ann", "story.txt"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_brat_becomes_a_document_by_either_file(tmp_path, encoding, named, capsys):
    (found,) = brat(tmp_path, ANN.replace("\n", "\r\n").encode(encoding), TEXT.encode(encoding), named)
    she, whole = ({"name": name, "type": "PER"} for name in ("She", "Mira Talvik"))
    assert found == {
        "title": "story",
        "sents": SENTS,
        "vertexSet": [
            [whole | {"sent_id": 0, "pos": [0, 2]}, she | {"sent_id": 1, "pos": [0, 1]}],
            [{"name": "Ostrand", "sent_id": 0, "pos": [5, 6], "type": "LOC"}],
        ],
        "labels": [{"h": 0, "t": 1, "r": "P19"}],
    }
    assert told(capsys) == (
        f"{tmp_path / named}: 1 mentions are at the place of another one of their entity, and are taken once\n"
    )


def test_line_ends_of_brats_text_count_as_they_are(tmp_path, capsys):
    (found,) = brat(tmp_path, "T1\tPER 5 8\tLeo\nT2\tPER 4 7\tLeo\n", "Ann\r\nLeo came.")
    assert [entity[0]["name"] for entity in found["vertexSet"]] == ["Leo", "Leo"]
    assert "1 of 2 mentions (50.0%) have another text" in told(capsys)


def test_pieces_of_a_mention_may_come_in_any_order(tmp_path):
    (found,) = brat(tmp_path, "T1\tPER 12 15;0 4;5 11\twas Mira Talvik", TEXT)
    assert found["vertexSet"] == [[{"name": "Mira Talvik was", "sent_id": 0, "pos": [0, 3], "type": "PER"}]]


def test_entities_are_joined_through_others_and_events_are_counted(tmp_path, capsys):
    lines = [f"T{number}\tX {number} {number + 1}" for number in range(6)] + ["*\tEquiv T2 T4"]
    lines += ["*\tEquiv T4 T2", "*\tEquiv T5 T3", "R1\tcoreference A:T2 B:T5", "*\tSame T0 T1", "*\tEquiv T0"]
    lines += ["E1\tMove:T0 Who:T1", "R2\tP1 A:E1 B:T0", "R3\tP2 A:T0 B:T5"]
    (found,) = brat(tmp_path, "\n".join(lines), "a,b.c;")
    assert [[mention["name"] for mention in entity] for entity in found["vertexSet"]] == [["a"], [","], list("b.c;")]
    assert found["labels"] == [{"h": 0, "t": 2, "r": "P2"}]
    assert told(capsys) == (
        f"{tmp_path / 'story.ann'}: 1 relations are left out, as they name what has no mention; 2 annotations are left "
        "out, as they are neither mentions nor relations\n"
    )


def test_a_text_without_annotations_is_a_document_without_entities(tmp_path):
    (found,) = brat(tmp_path, "", TEXT)
    assert found == {"title": "story", "sents": SENTS, "vertexSet": [], "labels": []}


@pytest.mark.parametrize(
    ("ann", "message"),
    [
        ("T1\tPER 0 4\tMira\nT1\tPER 0 4\tMira", r"line 2: T1 is there twice; rename one"),
        ("T1\tPER 0 x\tMira", r"line 1: 'T1\\tPER 0 x\\tMira' is not a mention: T1, tab, TYPE START END"),
        ("T1", r"line 1: 'T1' is not a mention"),
        (f"T1\tPER 0 {'9' * 5000}", r"line 1: 'T1\\tPER 0 9{51}' is not a mention"),
        ("\nT1\tPER 0 99\tMira", r"line 2: \[0, 99\] is not in the text, which has 42 characters"),
        ("T1\tPER 4 5\t", r"line 1: \[4, 5\] holds no token"),
        ("R1\tP19 Arg1:T1", r"line 1: 'R1\\tP19 Arg1:T1' is not a relation: R1, tab"),
        ("T1\tPER 0 4\nR1\tP19 Arg1:T1 Arg2:T2", r"line 2: T2 is not a mention \(a T line\) of the file"),
        ("*\tEquiv T1 T2", r"line 1: T1 is not a mention"),
        ("R1\tCoref Arg1:T1 Arg2:T2", r"line 1: T1 is not a mention"),
        ("\nhello", r"line 2: 'hello' is no annotation of brat's"),
        ("A1", r"line 1: 'A1' is no annotation of brat's"),
        ("*", r"line 1: '\*' is no annotation of brat's"),
    ],
)
def test_bad_brat_is_told_by_line(tmp_path, ann, message):
    with pytest.raises(UserError, match=rf"story\.ann: {message}"):
        brat(tmp_path, ann)


def test_brat_needs_both_files_and_a_text(tmp_path):
    (tmp_path / "a.ann").touch()
    with pytest.raises(UserError, match=r"a\.ann: a\.txt is not beside it; brat's format has both files"):
        read("", "brat", str(tmp_path / "a.ann"))
    with pytest.raises(UserError, match=r"b\.txt: b\.ann is not beside it"):
        read("A", "brat", str(tmp_path / "b.txt"))
    with pytest.raises(UserError, match=r"^standard input: brat has two files, NAME\.ann and NAME\.txt; pass the path"):
        read("", "brat", "standard input")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"a\.txt: is a folder"):
        read("", None, str(tmp_path / "a.ann"))
    with pytest.raises(UserError, match=r"story\.txt: is empty; it must hold the text of story\.ann"):
        brat(tmp_path, "", " \n")
    with pytest.raises(UserError, match=r"story\.txt: not UTF-8 text \(.*byte 1\)"):
        brat(tmp_path, "", b"a\xff")
    with pytest.raises(UserError, match=r"story\.ann: not UTF-8 text \(.*byte 2\)"):
        brat(tmp_path, b"T1\xff", "Mira")
