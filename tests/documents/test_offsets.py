"""How offsets are counted is found by the texts that mentions tell; what is there twice is taken once."""

import io
import json
import re

import pytest
from test_readers import brat, read, told

from hingeabl.errors import UserError
from hingeabl.readers.align import to_spans
from hingeabl.readers.any_format import read_format
from hingeabl.readers.documents import load_documents

TEXT = "\u00c9mile \U0001f600 met Orla.\r\nShe left \U0001f600 Porto.\r\nPorto is big."
NAMES = [("\u00c9mile", 0), ("Orla", 12), ("Porto", 30), ("Porto", 38)]
COUNTED = {
    "characters": len,
    "UTF-16 units": lambda text: len(text.encode("utf-16-le")) // 2,
    "UTF-8 bytes": lambda text: len(text.encode()),
}
ONE = "a line end as one"


def spans(count, told=range(9)):
    """A document whose offsets are counted by a function; the names of `told` are in its mentions."""
    entities = []
    for number, (name, at) in enumerate(NAMES):
        place = TEXT.index(name, at)
        mention = {"start": count(TEXT[:place]), "end": count(TEXT[: place + len(name)])}
        entities.append({"mentions": [mention | ({"text": name} if number in told else {})]})
    return {"title": "d", "text": TEXT, "entities": entities}


def names(document):
    return [[mention["name"] for mention in entity] for entity in document["vertexSet"]]


# --- offsets


@pytest.mark.parametrize("unit", COUNTED)
@pytest.mark.parametrize("end", ["", ONE])
@pytest.mark.parametrize("field", ["text", "name"])
def test_offsets_are_read_as_the_mentions_texts_show(unit, end, field, capsys):
    count = COUNTED[unit]
    document = spans(lambda text: count(text.replace("\r\n", "\n") if end else text))
    (found,) = read(
        json.dumps(document)
        .replace('"text": "', f'"{field}": "')
        .replace(f'"{field}": "\\u00c9mile \\', '"text": "\\u00c9mile \\')
    )
    assert names(found) == [["\u00c9mile"], ["Orla"], ["Porto"], ["Porto"]] and len(found["sents"]) == 3
    reading = ", ".join(filter(None, [unit, end]))
    expected = f"docs: offsets of 1 documents are read as {reading}, as the texts of their mentions show\n"
    assert told(capsys) == ("" if reading == "characters" else expected)


def test_one_told_text_moves_the_others_and_the_tokens(capsys):
    (found,) = read(spans(COUNTED["UTF-16 units"], told=[3]))
    assert names(found) == [["\u00c9mile"], ["Orla"], ["Porto"], ["Porto"]]
    sents = [[[0, 2], [3, 7], [7, 8]]]
    (found,) = read(
        {
            "text": "\U0001f600 Orla.",
            "entities": [{"mentions": [{"start": 3, "end": 7, "text": "Orla"}]}],
            "sents": sents,
        }
    )
    assert found["sents"] == [["\U0001f600", "Orla", "."]]


def test_documents_without_texts_follow_those_with_and_earlier_ones_are_counted(capsys):
    silent, certain = spans(COUNTED["UTF-16 units"], told=[]), spans(COUNTED["UTF-16 units"])
    first, _, last = read([silent, certain, silent])
    assert names(last)[3] == ["Porto"] != names(first)[3]
    assert "offsets of 2 documents are read as UTF-16 units" in (shown := told(capsys))
    assert "1 documents before these tell no texts, and are read as characters" in shown


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda start, end: (start + 7, end + 7), "add -7 to each"),
        (lambda start, end: (start, end - 1), "add 1 to each end, which is included here"),
        (lambda start, end: (start + 1, end), "subtract 1 from each start, as they count from 1"),
        (lambda start, end: (start, end - start), "add its start to each end, which is a length here"),
        (lambda start, end: (2 * start + 3, 2 * start + 5), "is the text the one that was annotated?"),
    ],
)
def test_offsets_that_fit_under_no_reading_are_refused_with_share_example_and_cause(change, cause):
    document = spans(len)
    for entity in document["entities"]:
        (mention,) = entity["mentions"]
        mention["start"], mention["end"] = change(mention["start"], mention["end"])
    message = (
        rf"^docs: document 0 \('d'\): [34] of 4 mentions \(\d+\.0%\) .* such as .*, where .*; .*{re.escape(cause)}"
    )
    with pytest.raises(UserError, match=message):
        read([document])


def test_a_text_in_another_unicode_form_is_named():
    found = [{"start": 0, "end": 4, "text": "Jos\u00e9"}, {"start": 9, "end": 12, "text": "Ana"}]
    with pytest.raises(UserError, match=r"2 of 2 mentions .* write the text in Unicode's form NFC"):
        read({"text": "Jose\u0301 met Ana.", "entities": [{"mentions": found}]})


def test_one_wrong_text_is_refused_alone_and_warned_of_among_others(capsys):
    wrong = {"text": "Orla left.", "entities": [{"mentions": [{"start": 0, "end": 4, "text": "Ana"}]}]}
    with pytest.raises(UserError, match=r"^docs: 1 of 1 mentions \(100\.0%\) .*'Ana', where 'Orla' is at \[0, 4\]"):
        read(wrong)
    read([spans(len), wrong])
    assert "1 of 5 mentions (20.0%) have another text" in told(capsys)


def test_white_space_case_and_unicode_form_of_a_text_do_not_count(capsys):
    text = "Jose\u0301  Sa\nmet Ana."
    found = [{"start": 0, "end": 9, "text": "Jos\u00e9 SA"}, {"start": 14, "end": 17, "name": "ana"}]
    read({"text": text, "entities": [{"mentions": found}]})
    assert not told(capsys)


def test_a_mention_without_a_type_of_its_own_has_its_entitys():
    mention = {"start": 0, "end": 4, "type": None}
    (found,) = read({"text": "Orla left.", "entities": [{"type": "PER", "mentions": [mention]}]})
    assert found["vertexSet"][0][0]["type"] == "PER"


def test_a_text_that_is_no_string_is_told():
    with pytest.raises(UserError, match=r"entities\[0\]\.mentions\[0\]: text 5 is not a string; correct it"):
        read({"text": "Orla", "entities": [{"mentions": [{"start": 0, "end": 4, "text": 5}]}]})


@pytest.mark.parametrize(
    ("between", "end", "said"),
    [(1, "\n", ""), (0, "\n", "line ends left out"), (2, "\n", "a line end as two"), (2, "\r\n", "a line end as two")],
)
def test_pubtators_title_and_abstract_may_be_joined_otherwise(between, end, said, capsys):
    place = len("Fever.") + between
    lines = [
        "1|t|Fever.",
        "1|a|Velomin ends fever.",
        "1\t0\t5\tFever\tD\tD1",
        f"1\t{place}\t{place + 7}\tVelomin\tC\tC1",
    ]
    (found,) = read(end.join([*lines, f"1\t{place + 13}\t{place + 18}\tfever\tD\tD1"]))
    assert names(found) == [["Fever", "fever"], ["Velomin"]]
    shown = told(capsys)
    assert (said in shown and "read as characters, " in shown) if said else not shown


def test_brats_line_ends_and_mark_are_found_and_pieces_moved(tmp_path, capsys):
    ann = "T1\tPER 0 4\tOrla\nT2\tORG 14 20;21 26\tTamsin Works\n"
    (found,) = brat(tmp_path, ann, "Orla\r\nmet\r\nthe \r\nTamsin\r\nWorks.")
    assert names(found) == [["Orla"], ["Tamsin Works"]]
    assert "read as characters, a line end as one" in (shown := told(capsys)) and "gaps" not in shown
    (found,) = brat(tmp_path, "T1\tPER 1 5\tOrla\nT2\tPER 10 13\tAna", b"\xef\xbb\xbfOrla met Ana.")
    assert names(found) == [["Orla"], ["Ana"]] and "the byte order mark counted" in told(capsys)
    (found,) = brat(tmp_path, "T1\tPER 0 4\tOrla\nT2\tPER 11 14\tAna", "Orla\nmet\nAna.")
    assert names(found) == [["Orla"], ["Ana"]] and "a line end as two" in told(capsys)


def test_only_what_is_not_white_space_is_a_gap(tmp_path, capsys):
    text = "left and right lungs\r\n \u00a0of Orla"
    lines = ["T1\tX 15 20;24 26", "T2\tX 0 4;2 8", "T3\tX 24 26;15 20", "T4\tX 0 4;15 20"]
    (found,) = brat(tmp_path, "\n".join(lines), text)
    assert names(found)[3] == ["left and right lungs"]
    assert "1 mentions have gaps" in told(capsys)


# --- what is there twice

TWICE = (
    "5|t|Velomine.\n5|a|Velomine caused fever.\n5\t0\t8\tVelomine\tC\tD1\n5\t0\t8\tVelomine\tC\tD1\n"
    "5\t10\t18\tVelomine\tC\tD1\n5\t26\t31\tfever\tD\tD2\n5\tCID\tD1\tD2\n5\tCID\tD1\tD2\tNovel\n"
)
ONCE = "".join(dict.fromkeys(TWICE.replace("\tNovel", "").splitlines(keepends=True)))


def test_equal_mentions_and_labels_of_pubtator_are_taken_once(capsys):
    assert read(ONCE) == read(TWICE) and len(read(ONCE)[0]["vertexSet"][0]) == 2
    assert "1 mentions are at the place of another one" in (shown := told(capsys))
    assert "1 labels state what another one states" in shown


def test_equal_mentions_of_brat_and_spans_are_taken_once_with_a_type(tmp_path, capsys):
    ann = "T1\tX 0 4\tOrla\nT2\tX 0 4\tOrla\nT3\tX 15 19\tOrla\nT4\tX 9 12\tAna\n*\tEquiv T1 T2 T3\n"
    (found,) = brat(
        tmp_path, ann + "R1\tP1 A:T1 B:T4\nR2\tP1 A:T3 B:T4\nR3\tP2 A:T1 B:T3", "Orla met Ana.\r\nOrla won."
    )
    assert names(found) == [["Orla", "Orla"], ["Ana"]] and found["labels"] == [{"h": 0, "t": 1, "r": "P1"}]
    shown = told(capsys)
    assert "1 mentions are at" in shown and "1 labels state" in shown and "1 relations are left out, as both" in shown
    mentions = [[0, 4], {"start": 0, "end": 4, "type": "PER"}, [1, 4]]
    labels = [{"h": 0, "t": 1, "r": "P1", "evidence": [0]}, {"h": 0, "t": 1, "r": "P1", "evidence": [1]}]
    sents = [[[0, 4], [5, 8]], [[9, 12]]]
    document = {"text": "Orla met Ana", "entities": [{"mentions": mentions}, {"mentions": [[9, 12]]}], "sents": sents}
    (found,) = read(document | {"labels": labels})
    assert found["vertexSet"][0] == [{"name": "Orla", "sent_id": 0, "pos": [0, 1], "type": "PER"}]
    assert found["labels"] == [{"h": 0, "t": 1, "r": "P1", "evidence": [0, 1]}]
    assert "2 mentions are at the place" in told(capsys)


def test_one_place_in_two_entities_stays_in_both(capsys):
    (found,) = read({"text": "Orla", "entities": [{"mentions": [[0, 4]]}, {"mentions": [[0, 4]]}]})
    assert names(found) == [["Orla"], ["Orla"]] and not told(capsys)


def test_docreds_own_equal_mentions_stay_with_a_warning_and_on_the_way_to_spans_and_back(tmp_path, capsys):
    mention = {"name": "Orla", "sent_id": 0, "pos": [0, 1]}
    label = {"h": 0, "t": 1, "r": "P1"}
    other = {"name": "Ana", "sent_id": 0, "pos": [2, 3]}
    document = {
        "title": "T",
        "sents": [["Orla", "met", "Ana"]],
        "vertexSet": [[mention] * 3, [other]],
        "labels": [label] * 2,
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps([document]))
    assert load_documents(path) == [document]
    assert re.search(r"a\.json: 2 of 4 mentions \(50\.0%\) are at the place .*'T', vertexSet\[0\]", told(capsys))
    assert read(to_spans(document)) == [document] and not told(capsys)
    assert "repeats" not in to_spans(document | {"vertexSet": [[mention], [other]], "labels": []})
    with pytest.raises(UserError, match="repeats: has the wrong type; it must be a true or false"):
        list(read_format(io.BytesIO(json.dumps(to_spans(document) | {"repeats": 1}).encode()), "a", None, typed=False))
