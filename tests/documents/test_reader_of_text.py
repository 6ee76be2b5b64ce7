"""Plain text: rules of coreference, spaCy's entities in DocRED's schema, and what is missing or wrong."""

import io
import re
import sys
import types

import pytest

from hingeabl.data.schema import check_document
from hingeabl.errors import UserError
from hingeabl.readers import coreference, text
from hingeabl.readers.coreference import Mention, join_by_rules, merge_by_clusters, pronouns_of

PARAGRAPHS = """Marie Curie was born in Warsaw in 1867. She moved to Paris, where she studied at the University of
Paris. Curie married Pierre Curie in 1895.

Barack Obama was born in Honolulu, Hawaii. In 2009 Obama became president of the United States.
Barack Obama lived in Chicago with his wife Michelle.

The World Health Organization was founded in 1948 in Geneva. The WHO is an agency of the United Nations.
Switzerland's largest city is Zurich.
"""


def mentions_of(*named):
    """One mention after the other, each "name/TYPE"."""
    found, place = [], 0
    for name, _, kind in (entry.partition("/") for entry in named):
        found.append(Mention(name, kind, place, place + len(name)))
        place += len(name) + 1
    return found


def names(entities):
    return [[mention.name for mention in entity] for entity in entities]


@pytest.mark.parametrize(
    "mentions, joined",
    [
        (["Paris/LOC", "PARIS/LOC", "Lyon/LOC"], [["Paris", "PARIS"], ["Lyon"]]),
        (["Paris/LOC", "Paris/PER"], [["Paris"], ["Paris"]]),
        (["1990/TIME", "1990/TIME", "1990/NUM"], [["1990", "1990"], ["1990"]]),
        (["Dr. Abel/PER", "Abel/PER", "mrs abel/PER"], [["Dr. Abel", "Abel", "mrs abel"]]),
        (["President/PER", "Abel/PER"], [["President"], ["Abel"]]),
        (["The Velmar Press/ORG", "Velmar Press's/ORG", "The/ORG"], [["The Velmar Press", "Velmar Press's"], ["The"]]),
        (["the United States/LOC", "U.S./LOC", "US/PER"], [["the United States", "U.S."], ["US"]]),
    ],
)
def test_the_same_name_of_the_same_type_is_one_entity(mentions, joined):
    assert names(join_by_rules(mentions_of(*mentions))) == joined


@pytest.mark.parametrize(
    "mentions, joined",
    [
        (["Marie Curie/PER", "Curie/PER", "Marie/PER"], [["Marie Curie", "Curie", "Marie"]]),
        (["Prof. Curie/PER", "Marie Curie/PER"], [["Prof. Curie", "Marie Curie"]]),
        (["Marie Curie/PER", "Pierre Curie/PER", "Curie/PER"], [["Marie Curie", "Curie"], ["Pierre Curie"]]),
        (
            ["Curie/PER", "Marie Curie/PER", "Marie Sklodowska Curie/PER"],
            [["Curie", "Marie Curie", "Marie Sklodowska Curie"]],
        ),
        (["Marie Curie/PER", "Curie Marie/PER"], [["Marie Curie"], ["Curie Marie"]]),
        (["Marie Curie/PER", "Cur/PER"], [["Marie Curie"], ["Cur"]]),
        (["Marie Curie/ORG", "Curie/PER"], [["Marie Curie"], ["Curie"]]),
        (["New York/LOC", "York/LOC"], [["New York"], ["York"]]),
    ],
)
def test_a_part_of_a_longer_persons_name_is_the_first_such_person(mentions, joined):
    assert names(join_by_rules(mentions_of(*mentions))) == joined


@pytest.mark.parametrize(
    "mentions, joined",
    [
        (["United Nations/ORG", "UN/ORG", "U.N./LOC"], [["United Nations", "UN", "U.N."]]),
        (["Bank of Kirona/ORG", "BK/ORG", "BOK/ORG"], [["Bank of Kirona", "BK", "BOK"]]),
        (["United Nations/ORG", "Upper Norland/LOC", "UN/ORG"], [["United Nations"], ["Upper Norland"], ["UN"]]),
        (["United Nations/ORG", "united nations/ORG", "UN/ORG"], [["United Nations", "united nations", "UN"]]),
        (["United Nations/ORG", "Un/ORG"], [["United Nations"], ["Un"]]),
        (["Ulla Norberg/PER", "UN/ORG"], [["Ulla Norberg"], ["UN"]]),
        (["United Nations/ORG", "UN/PER"], [["United Nations"], ["UN"]]),
        (["Kirona/LOC", "K/LOC"], [["Kirona"], ["K"]]),
    ],
)
def test_the_initials_of_one_longer_name_are_that_entity(mentions, joined):
    assert names(join_by_rules(mentions_of(*mentions))) == joined


@pytest.mark.parametrize(
    "passage, mentions, joined",
    [
        ("Velmar Press (VP) grew.", ["Velmar Press/ORG", "VP/ORG"], [["Velmar Press", "VP"]]),
        ('Lodin (formerly "Lodina") is far.', ["Lodin/LOC", "Lodina/LOC"], [["Lodin", "Lodina"]]),
        ("Anna (Ann), who left", ["Anna/PER", "Ann/PER"], [["Anna", "Ann"]]),
        ("Lodin (Kirona) is far.", ["Lodin/LOC", "Kirona/ORG"], [["Lodin"], ["Kirona"]]),
        ("Lodin (Kirona) is far.", ["Lodin/LOC", "Kirona/LOC"], [["Lodin"], ["Kirona"]]),
        ("Saint Lodin (SL) is far.", ["Saint Lodin/LOC", "SL/LOC"], [["Saint Lodin", "SL"]]),
        ("Lodin (near Kirona) is far.", ["Lodin/LOC", "Kirona/LOC"], [["Lodin"], ["Kirona"]]),
        ("Lodin (Kirona district) is far.", ["Lodin/LOC", "Kirona/LOC"], [["Lodin"], ["Kirona"]]),
        ("in 1990 (1991)", ["1990/TIME", "1991/TIME"], [["1990"], ["1991"]]),
    ],
)
def test_a_name_in_brackets_after_another_is_the_same_entity(passage, mentions, joined):
    found = []
    for name, _, kind in (entry.partition("/") for entry in mentions):
        start = passage.index(name, found[-1].end if found else 0)
        found.append(Mention(name, kind, start, start + len(name)))
    assert names(join_by_rules(found, passage)) == joined


def test_entities_and_their_mentions_are_in_the_texts_order():
    entities = join_by_rules(reversed(mentions_of("UN/ORG", "Abel/PER", "United Nations/ORG", "Anna Abel/PER")))
    assert names(entities) == [["UN", "United Nations"], ["Abel", "Anna Abel"]]


def test_clusters_join_mentions_of_one_type():
    mentions = mentions_of("Anna/PER", "Talvik/PER", "Kirona/LOC", "1990/TIME", "1991/TIME")
    entities, spans = [[mention] for mention in mentions], [(mention.start, mention.end) for mention in mentions]
    assert names(merge_by_clusters(entities, [spans])) == [["Anna", "Talvik"], ["Kirona"], ["1990"], ["1991"]]
    assert names(merge_by_clusters(entities, [[(0, 3), spans[1]]])) == [[mention.name] for mention in mentions]


def test_pronouns_become_mentions_only_beside_a_named_entity():
    sentence = "Anna left as she and it saw they knew"
    anna = Mention("Anna", "PER", 0, 4)
    she, it, they = ((place := sentence.index(word), place + len(word)) for word in ("she", "it", "they"))
    found = pronouns_of(sentence, [anna], [[(0, 4), she, (5, 9)], [it, they]])
    assert found == [Mention("she", "PER", *she)]


def spacy_doc(words, ents, sent_starts=None):
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: scripts/requirements/text.txt")
    from spacy.tokens import Doc, Span

    starts = sent_starts or [place == 0 for place in range(len(words))]
    doc = Doc(spacy.blank("en").vocab, words=words, sent_starts=starts)
    doc.set_ents([Span(doc, start, end, label=label) for start, end, label in ents])
    return doc


def test_every_label_of_spacys_english_models_has_one_of_docreds_types():
    labels = "PERSON PER ORG GPE LOC FAC DATE TIME CARDINAL ORDINAL MONEY PERCENT QUANTITY NORP PRODUCT EVENT".split()
    labels += ["WORK_OF_ART", "LAW", "LANGUAGE", "MISC"]
    doc = spacy_doc([f"w{label}" for label in labels], [(n, n + 1, label) for n, label in enumerate(labels)])
    found = [entity[0]["type"] for entity in text.document_of_doc(doc, "T")["vertexSet"]]
    numbers = ["NUM"] * 4  # no ordinal, which is no mention in DocRED
    assert found == ["PER"] * 2 + ["ORG"] + ["LOC"] * 3 + ["TIME"] * 2 + numbers + ["LOC"] + ["MISC"] * 6


def test_unknown_labels_are_counted_in_a_warning(capsys):
    doc = spacy_doc(["Abc", "Def", "Ghi"], [(0, 1, "GENE"), (1, 2, "GENE"), (2, 3, "ORG")])
    found = text.document_of_doc(doc, "T")
    assert [entity[0]["type"] for entity in found["vertexSet"]] == ["MISC", "MISC", "ORG"]
    assert capsys.readouterr().err == "WARNING: 'T': 2 mentions of unknown labels are MISC: GENE (2)\n"


def test_white_space_articles_and_possessives_are_no_part_of_mentions(capsys):
    words = ["\n", "The", "Velmar", "\n", "Press", "'s", "\n", "head", "\n\n", "left", "A"]
    starts = [place in (0, 8, 9) for place in range(len(words))]
    doc = spacy_doc(words, [(1, 6, "ORG"), (10, 11, "ORG")], starts)
    document = text.document_of_doc(doc, "T")
    assert document["sents"] == [["The", "Velmar", "Press", "'s", "head"], ["left", "A"]]
    assert document["vertexSet"] == [
        [{"name": "Velmar Press", "sent_id": 0, "pos": [1, 3], "type": "ORG"}],
        [{"name": "A", "sent_id": 1, "pos": [1, 2], "type": "ORG"}],
    ]
    assert capsys.readouterr().err == ""


def test_a_mention_ends_with_its_sentence():
    doc = spacy_doc(["Anna", "Abel", "Kirona"], [(0, 3, "PERSON")], [True, False, True])
    mention = text.document_of_doc(doc, "T")["vertexSet"][0][0]
    assert mention == {"name": "Anna Abel", "sent_id": 0, "pos": [0, 2], "type": "PER"}


def test_clusters_add_pronouns_and_join_names_with_their_articles():
    doc = spacy_doc(
        ["The", "Velmar", "Press", "grew", "as", "Velmar", "sold", "it", "."], [(1, 3, "ORG"), (5, 6, "ORG")]
    )
    whole, short, pronoun = doc[0:3], doc[5:6], doc[7:8]
    cluster = [(span.start_char, span.end_char) for span in (whole, short, pronoun)]
    document = text.document_of_doc(doc, "T", [cluster, [(1, 6)]])
    check_document(document, "T")
    assert [[mention["name"] for mention in entity] for entity in document["vertexSet"]] == [
        ["Velmar Press", "Velmar", "it"]
    ]
    assert document["vertexSet"][0][2] == {"name": "it", "sent_id": 0, "pos": [7, 8], "type": "ORG"}


def test_a_text_without_entities_is_warned_of(capsys):
    assert text.document_of_doc(spacy_doc(["Nothing", "here"], []), "T")["vertexSet"] == []
    assert capsys.readouterr().err == "WARNING: 'T': no named entity is found, so there is nothing to relate\n"


def test_a_pipeline_that_finds_no_sentences_or_no_entities_is_refused():
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: scripts/requirements/text.txt")
    nlp = spacy.blank("en")
    with pytest.raises(UserError, match=r"finds no sentences; add the component 'parser'"):
        text.document_of_doc(nlp("Anna left. Abel came."), "T")
    nlp.add_pipe("sentencizer")
    with pytest.raises(UserError, match=r"finds no named entities; add the component 'ner'"):
        text.document_of_doc(nlp("Anna left. Abel came."), "T")


@pytest.fixture(scope="module")
def nlp():
    try:
        return text.load_spacy(text.MODELS[0])
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["the detector", "spaCy"])
def read(request, rules_alone):
    """Reads the documents of a file of plain text in one of the two ways."""
    if request.param == "spaCy":
        request.getfixturevalue("nlp")
    model = text.MODELS[0] if request.param == "spaCy" else None
    return lambda data, name: list(text.documents_of_texts(text.read_texts(io.BytesIO(data), name), model))


@pytest.fixture
def rules_alone(monkeypatch):
    monkeypatch.setattr(text, "find_clusters", lambda text: [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_becomes_a_document_with_its_known_entities(read, encoding):
    (document,) = read(PARAGRAPHS.encode(encoding), "folder/three.txt")
    check_document(document, "three.txt")
    assert document["title"] == "three" and set(document) == {"title", "sents", "vertexSet", "text"}
    assert document["text"] == PARAGRAPHS
    assert "".join("".join(sentence) for sentence in document["sents"]) == re.sub(r"\s", "", PARAGRAPHS)
    entities = {(entity[0]["name"], entity[0]["type"]): entity for entity in document["vertexSet"]}
    wanted = [("Marie Curie", "PER"), ("Warsaw", "LOC"), ("1867", "TIME"), ("Switzerland", "LOC")]
    assert set(wanted) <= set(entities)
    assert [mention["name"] for mention in entities["Barack Obama", "PER"]] == ["Barack Obama", "Obama", "Barack Obama"]
    assert [mention["name"] for mention in entities["World Health Organization", "ORG"]][1:] == ["WHO"]


def test_positions_and_offsets_name_the_mentions_tokens(read):
    (document,) = read(PARAGRAPHS.encode(), "three.txt")
    mentions = [mention for entity in document["vertexSet"] for mention in entity]
    assert len(mentions) > 15
    for mention in mentions:
        start, end = mention["pos"]
        tokens = document["sents"][mention["sent_id"]][start:end]
        assert "".join(tokens) == mention["name"].replace(" ", "")
        assert " ".join(PARAGRAPHS[mention["start"] : mention["end"]].split()) == mention["name"]


def test_a_text_longer_than_spacy_takes_is_refused(nlp, monkeypatch):
    monkeypatch.setattr(nlp, "max_length", 10)
    with pytest.raises(UserError, match=r"^long.txt: has 11 characters, and spaCy takes 10; split it"):
        text.document_of_text("Anna left.\n", "long", "long.txt", text.MODELS[0])


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "bad.txt: is empty; it must hold plain text"),
        (b"\xef\xbb\xbf \n", "bad.txt: is empty; it must hold plain text"),
        (b"Anna \xff left", "bad.txt: not UTF-8 text (invalid start byte at byte 5); save it as UTF-8"),
        (b"\xef\xbb\xbfAnna \xff", "bad.txt: not UTF-8 text (invalid start byte at byte 8); save it as UTF-8"),
        (b"PK\x03\x04\xff", "bad.txt: is a zip archive; unpack it first"),
        (b"<!DOCTYPE html><p>Anna", "bad.txt: is a web page, not data; download the raw file"),
    ],
)
def test_what_is_no_text_is_refused(data, message):
    with pytest.raises(UserError) as error:
        next(text.read_texts(io.BytesIO(data), "bad.txt"))
    assert str(error.value) == message


def test_missing_spacy_is_told_with_the_commands(monkeypatch, fresh_spacy):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError) as error:
        text.document_of_text("Anna left.", "a", "a.txt", "de_core_news_sm")
    assert str(error.value) == (
        "text_model de_core_news_sm: needs spaCy, which is not installed; pip install -r "
        "scripts/requirements/text.txt && python -m spacy download de_core_news_sm"
    )


@pytest.fixture
def fresh_spacy():
    text.load_spacy.cache_clear()
    yield
    text.load_spacy.cache_clear()


def test_a_missing_model_is_told_with_the_commands(monkeypatch, fresh_spacy):
    asked = []

    def load(name):
        asked.append(name)
        raise OSError(f"[E050] Can't find model {name!r}.")

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
    with pytest.raises(UserError) as error:
        text.load_spacy()
    assert asked == list(text.MODELS)
    assert str(error.value) == (
        "text_model en_core_web_sm: cannot be loaded ([E050] Can't find model 'en_core_web_sm'.); correct the name, or "
        "pip install -r scripts/requirements/text.txt && python -m spacy download en_core_web_sm"
    )


@pytest.fixture
def fresh_fastcoref():
    coreference._fastcoref.cache_clear()
    yield
    coreference._fastcoref.cache_clear()


def test_fastcorefs_clusters_are_used_where_it_is_installed(monkeypatch, fresh_fastcoref):
    class FCoref:
        def predict(self, texts):
            return [types.SimpleNamespace(get_clusters=lambda as_strings: [[(0, len(texts[0]))], as_strings])]

    monkeypatch.setitem(sys.modules, "fastcoref", types.SimpleNamespace(FCoref=FCoref))
    assert coreference.find_clusters("Anna") == [[(0, 4)], False]


def test_without_fastcoref_rules_are_used_in_silence(monkeypatch, capsys, fresh_fastcoref):
    monkeypatch.setitem(sys.modules, "fastcoref", None)
    assert coreference.find_clusters("Anna") == []
    assert capsys.readouterr().err == ""


def test_without_fastcorefs_model_rules_are_used_with_a_warning(monkeypatch, capsys, fresh_fastcoref):
    def offline():
        raise OSError("no such host\nand more")

    monkeypatch.setitem(sys.modules, "fastcoref", types.SimpleNamespace(FCoref=offline))
    assert coreference.find_clusters("Anna") == [] == coreference.find_clusters("Abel")
    assert capsys.readouterr().err == (
        "WARNING: fastcoref's model cannot be loaded (no such host); mentions are joined by rules alone\n"
    )
