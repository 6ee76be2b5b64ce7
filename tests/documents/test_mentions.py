"""Tokens become running text, and the detector finds mentions and sentences in it, with their characters."""

import io
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hingeabl.data.schema import check_document
from hingeabl.errors import UserError
from hingeabl.readers import mentions
from hingeabl.readers.align import to_spans
from hingeabl.readers.joining import join_tokens, mention_spans
from hingeabl.readers.mentions import TAGS, MentionTagger, best_tags, mentions_of, shape_of, windows_of, words_of
from hingeabl.readers.text import Text, documents_of_texts, read_texts

PLAIN = "Anna Abel was born in Warsaw in 1967. She works for the World Health Organization (WHO) in Geneva."


@pytest.fixture(scope="module")
def tagger():
    return mentions.shipped_tagger()


# --- tokens as text


@pytest.mark.parametrize(
    "tokens, text",
    [
        ("He left , she said .", "He left, she said."),
        ("the men 's team did n't win", "the men's team didn't win"),
        ('Wilfried " Willi " Schneider', 'Wilfried "Willi" Schneider'),
        ("the band ( born 1990 ; died 2001 )", "the band (born 1990; died 2001)"),
        ("from 1990 – 1995 – a long time", "from 1990–1995 – a long time"),
        ("Oscar - nominated and / or $ 5 , 10 %", "Oscar-nominated and/or $5, 10%"),
        ("the students ' hall in ' quotes '", "the students' hall in 'quotes'"),
    ],
)
def test_tokens_are_joined_as_text_would_be(tokens, text):
    assert join_tokens([tokens.split()])[0] == text


def test_each_token_is_at_its_place_to_the_character():
    drawn = random.Random(0)
    alphabet = [
        "Ab",
        "ß",
        "e\u0301",
        "\U0001f600",
        "\xa0",
        '"',
        "'",
        "-",
        "–",
        "(",
        ")",
        ".",
        "'s",
        "",
        "\u05d0\u05d1",
        "1",
    ]
    for _ in range(300):
        sents = [[drawn.choice(alphabet) for _ in range(drawn.randrange(9))] for _ in range(drawn.randrange(4))]
        text, places = join_tokens(sents)
        assert [[text[start:end] for start, end in spans] for spans in places] == sents


def test_mentions_are_at_their_tokens_characters():
    mention = {"name": "men's team", "sent_id": 1, "pos": [1, 4], "type": "ORG"}
    document = {"sents": [["Go", "."], ["the", "men", "'s", "team", "won"]], "vertexSet": [[mention, mention]]}
    text, places = join_tokens(document["sents"])
    ((start, end, kind),) = mention_spans(document, places)[0]
    assert (text[start:end], kind) == ("men's team", "ORG")


# --- the detector's parts


@pytest.mark.parametrize("length", [0, 1, 509, 510, 511, 900, 5000])
def test_windows_give_each_piece_once_and_see_around_it(length):
    taken = []
    for start, end, first, last in windows_of(length):
        assert 0 <= start <= first <= last <= end <= length and end - start <= 510
        assert start == 0 or first - start >= 64
        assert end == length or end - last >= 64
        taken += range(first, last)
    assert taken == list(range(length))


@pytest.mark.parametrize(
    "word, shape", [("anna", 0), ("Anna", 1), ("WHO", 2), ("iPhone", 3), ("McCray", 3), ("A", 4), ("1967", 5), ("É", 4)]
)
def test_the_shape_of_a_word(word, shape):
    assert shape_of(word) == shape


def test_the_best_tags_are_those_of_all_paths_that_are_allowed():
    drawn = np.random.default_rng(0)
    some = [0, 1, 2, 3, 4]  # O and two types
    for _ in range(20):
        scores = np.full((4, len(TAGS)), -50.0)
        scores[:, some] = drawn.normal(size=(4, len(some)))
        paths = [
            path
            for path in itertools.product(some, repeat=4)
            if all(tag not in (2, 4) or before in (tag - 1, tag) for before, tag in zip((0, *path), path, strict=False))
        ]
        best = max(paths, key=lambda path: sum(scores[word, tag] for word, tag in enumerate(path)))
        assert best_tags(scores).tolist() == list(best)
    assert best_tags(np.zeros((0, len(TAGS)))).tolist() == []


def test_touching_mentions_stay_apart():
    tags = [TAGS.index(tag) for tag in ("B-LOC", "I-LOC", "B-LOC", "O", "B-PER")]
    spans = [(0, 3), (4, 8), (9, 12), (13, 15), (16, 20)]
    assert mentions_of(tags, spans) == [(0, 8, "LOC"), (9, 12, "LOC"), (16, 20, "PER")]


def test_words_are_at_their_characters_whatever_the_tokenizer_makes_of_them(tagger):
    text = "É\u0301mile\u200b's  \U0001f600 WHO,\r\n\u05d0\u05d1 naïve 東京"
    words = words_of(tagger.tokenizer, text)
    found = [text[start:end] for start, end in words.spans]
    assert found == ["É\u0301mile", "'", "s", "\U0001f600", "WHO", ",", "\u05d0\u05d1", "naïve", "東", "京"]
    assert len(words.pieces) == len(words.shapes) >= len(words.first) == len(words.spans)


# --- the shipped detector


def test_mentions_and_sentences_of_a_text_are_found(tagger):
    (found,) = tagger([PLAIN])
    assert {(PLAIN[start:end], kind) for start, end, kind in found.mentions} == {
        *(("Anna Abel", "PER"), ("Warsaw", "LOC"), ("1967", "TIME"), ("Geneva", "LOC")),
        *(("World Health Organization", "ORG"), ("WHO", "ORG")),
    }
    assert [PLAIN[start:][:3] for start in found.sentences] == ["Ann", "She"]


def test_texts_are_found_alike_alone_and_together_and_in_a_long_text(tagger):
    texts = [PLAIN, "", "Nothing here.", PLAIN + " " + PLAIN]
    together = tagger(texts)
    assert together == [tagger([text])[0] for text in texts]
    filler = "The weather was good and the sea was calm. "
    long = filler * 300 + PLAIN
    (found,) = tagger([long])
    own = [(start, end, kind) for start, end, kind in found.mentions if start >= 300 * len(filler)]
    assert {(long[start:end], kind) for start, end, kind in own} >= {("Anna Abel", "PER"), ("Warsaw", "LOC")}
    assert len(found.sentences) > 290


def test_a_blank_line_ends_a_sentence_and_a_mention():
    (document,) = documents_of_texts([Text("News from Warsaw\n\nAnna Abel left", "t", "t")])
    assert document["sents"] == [["News", "from", "Warsaw"], ["Anna", "Abel", "left"]]
    assert "Anna Abel" in [mention["name"] for entity in document["vertexSet"] for mention in entity]


HOSTILE = [
    *("Anna", "Abel", "Warsaw", "WHO", "1967", "of", "the", "in", "was", "born", ",", ".", "(", ")", "’s", "'s", "-"),
    *("\U0001f600", "\U0001f469\u200d\U0001f680", "E\u0301mile", "\u05d9\u05e8\u05d5\u05e9\u05dc\u05d9\u05dd", "دمشق"),
    *("\u200b", "\u202eAnna\u202c", "東京", "ﬁne", "İstanbul", "ẞ", "\x00", "\ufeff", "a\u0300\u0301", "\xa0"),
]
GAPS = [" ", "  ", "\n", "\r\n", "\r\n\r\n", "\t", "", "\u2028", "\u3000"]


def test_each_mention_is_the_slice_of_a_hostile_text():
    drawn = random.Random(3)
    texts = []
    for number in range(200):
        words = [drawn.choice(HOSTILE) for _ in range(drawn.randrange(1, 60))]
        text = "".join(word + drawn.choice(GAPS) for word in words) + "Anna"
        texts.append(Text(text, f"t{number}", f"t{number}"))
    found = 0
    for given, document in zip(texts, documents_of_texts(texts), strict=True):
        check_document(document, given.where)
        spans = to_spans(document)
        assert spans["text"] == given.text == document["text"]
        for entity, own in zip(document["vertexSet"], spans["entities"], strict=True):
            for mention, its in zip(entity, own["mentions"], strict=True):
                text = given.text[mention["start"] : mention["end"]]
                assert (its["start"], its["end"]) == (mention["start"], mention["end"])
                assert mention["name"] == " ".join(text.split()) and text.strip() == text != ""
                tokens = document["sents"][mention["sent_id"]][slice(*mention["pos"])]
                assert "".join("".join(tokens).split()) == "".join(text.split())
                found += 1
        tokens = [token for sentence in document["sents"] for token in sentence]
        assert "".join(tokens) == "".join(given.text.split())
    assert found > 500


# --- texts in JSON


def test_json_with_a_text_each_is_read_as_texts():
    lines = [{"text": PLAIN, "title": "A"}, {"text": "Warsaw\r\nis \U0001f600 big. Warsaw", "id": 7}]
    data = "\n".join(map(json.dumps, lines)).encode()
    found = list(read_texts(io.BytesIO(data), "docs.jsonl"))
    assert found == [
        Text(PLAIN, "A", "docs.jsonl: document 0"),
        Text(lines[1]["text"], "document 1", "docs.jsonl: document 1"),
    ]


@pytest.mark.parametrize(
    "second, message",
    [
        ({"text": 3}, "docs.jsonl: document 1: text: must be a string; correct it"),
        ({"title": "B"}, "docs.jsonl: document 1: text: must be a string; correct it"),
        ({"text": "a", "title": 3}, "docs.jsonl: document 1: title: must be a string; correct it"),
        ({"text": "a\ud800"}, "docs.jsonl: document 1: holds \\ud800, half of a character; repair the text there"),
        ({"text": " "}, "docs.jsonl: document 1: is empty; it must hold plain text"),
        (
            {"text": "a", "entities": []},
            "docs.jsonl: document 1: has 'entities', and the first document is a text alone; give all of them "
            "mentions, or none, or pass --format spans",
        ),
    ],
)
def test_what_is_no_text_among_texts_is_refused(second, message):
    data = "\n".join(map(json.dumps, [{"text": PLAIN}, second])).encode()
    with pytest.raises(UserError) as error:
        list(read_texts(io.BytesIO(data), "docs.jsonl"))
    assert str(error.value) == message


def test_an_accent_that_is_a_character_of_its_own_belongs_to_the_word_before_it(tagger):
    text = "Jose\u0301 met A\u0301na, Zoe\u0308."
    spans = words_of(tagger.tokenizer, text).spans.tolist()
    assert [text[start:end] for start, end in spans] == ["Jose\u0301", "met", "A\u0301na", ",", "Zoe\u0308", "."]


def test_a_special_piece_in_a_text_is_words_like_any_other(tagger):
    words = words_of(tagger.tokenizer, "Anna [SEP] left [MASK]")
    assert [int(end - start) for start, end in words.spans] == [4, 1, 3, 1, 4, 1, 4, 1]
    assert not set(words.pieces.tolist()) & {*tagger.specials, tagger.tokenizer.token_to_id("[MASK]")}


def test_padding_changes_no_score(tagger):
    short, long = (words_of(tagger.tokenizer, text) for text in ("Anna left Warsaw.", PLAIN * 4))
    (alone,) = tagger._scores([short])
    together, _ = tagger._scores([short, long])
    assert np.abs(together - alone).max() < 0.2 < np.abs(alone).max()  # bf16, where the processor has it


def test_a_detector_without_one_of_its_tensors_is_refused(tmp_path):
    for path in mentions.MODEL.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "classifier.weight" not in name},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UserError, match="is no whole detector of mentions"):
        MentionTagger.load(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_broken_detector_is_refused_with_its_folder(tmp_path, file, damage):
    for path in mentions.MODEL.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink() if damage == "missing" else (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"^{tmp_path}"):
        MentionTagger.load(tmp_path)


def test_the_mentions_of_old_line_ends_do_not_go_over_a_blank_line(tagger):
    for end in ("\r\r", "\n\n", "\r\n\r\n", "\n \n"):
        (found,) = tagger([f"News from Warsaw{end}Anna Abel left"])
        assert len(found.sentences) == 2 and all(own[1] <= 16 or own[0] >= 17 for own in found.mentions), repr(end)


@pytest.mark.slow
@pytest.mark.skipif("REDOCRED_DIR" not in os.environ, reason="REDOCRED_DIR is not set")
def test_the_detectors_scores_are_those_of_its_record():
    from hingeabl.readers.documents import load_documents
    from hingeabl.training.mentions import scores_of

    record = json.loads((mentions.MODEL / "training.json").read_text())["scores"]["test"]
    found = scores_of(mentions.shipped_tagger(), load_documents(Path(os.environ["REDOCRED_DIR"], "test_revised.json")))
    assert found == pytest.approx(record, abs=0.05)
    assert found["span_f1"] > 86 and found["typed_f1"] > 82
