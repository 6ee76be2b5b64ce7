"""The training of the detector: labels of words, a loss that falls, one that goes on, and what is kept out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hingeabl.errors import UserError
from hingeabl.readers.joining import gold_of
from hingeabl.readers.mentions import MODEL, TAGS, MentionTagger, mentions_of, tokenizer_of, words_of
from hingeabl.training import mentions
from hingeabl.training.mentions import MentionSettings, batches_of, scores_of, train_mentions, word_labels


def documents_of(sample, split, count):
    return json.loads((sample / f"{split}.json").read_text())[:count]


@pytest.fixture
def files(sample, tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.json").write_text(json.dumps(documents_of(sample, split, 6)))
    return {"train": [str(tmp_path / "train.json")], "dev": str(tmp_path / "dev.json")}


def settings(tiny_bert, **changed):
    return MentionSettings(encoder=str(tiny_bert), batch_size=2, learning_rate=1e-3, **changed)


def test_the_longest_of_overlapping_mentions_has_the_tags(tiny_bert):
    text = "The New York Times left Anna's hall."
    words = words_of(tokenizer_of(tiny_bert), text)
    given = [(4, 12, "LOC"), (4, 18, "ORG"), (24, 28, "PER")]
    tags, begins = word_labels(words, given, [0])
    shown = {text[start:end]: TAGS[tag] for (start, end), tag in zip(words.spans, tags, strict=True)}
    assert {word: tag for word, tag in shown.items() if tag != "O"} == {
        "New": "B-ORG",
        "York": "I-ORG",
        "Times": "I-ORG",
        "Anna": "B-PER",
    }
    assert begins.tolist() == [1] + [0] * (len(begins) - 1)


def test_gold_tags_give_back_the_gold_mentions(sample, tiny_bert):
    tokenizer = tokenizer_of(tiny_bert)
    for document in documents_of(sample, "train", 20):
        text, given, starts = gold_of(document)
        words = words_of(tokenizer, text)
        tags, begins = word_labels(words, given, starts)
        assert mentions_of(tags, words.spans) == given
        assert words.spans[begins == 1, 0].tolist() == starts


def test_an_epoch_has_every_window_once_in_an_order_that_the_seed_draws():
    examples = [mentions.Example(*[np.zeros(n % 7 + 1, dtype=np.int64)] * 4) for n in range(50)]
    orders = [[id(one) for batch in batches_of(examples, 4, seed) for one in batch] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(map(id, examples))


def test_a_training_learns_its_documents(files, tiny_bert, tmp_path):
    train_mentions(**files, folder=tmp_path / "out", settings=settings(tiny_bert, epochs=25))
    record = json.loads((tmp_path / "out/detector/training.json").read_text())
    losses = [epoch["loss"] for epoch in record["history"]]
    assert losses[-1] < 0.5 * losses[0]
    tagger = MentionTagger.load(tmp_path / "out/detector")
    trained = json.loads(Path(files["train"][0]).read_text())
    assert scores_of(tagger, trained)["typed_f1"] > 40 and scores_of(tagger, trained)["sentence_f1"] > 25
    assert record["scores"]["dev"]["typed_f1"] == pytest.approx(
        max(e["dev"]["typed_f1"] for e in record["history"]), abs=3
    )


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(files, tiny_bert, tmp_path, monkeypatch):
    train_mentions(**files, folder=tmp_path / "whole", settings=settings(tiny_bert, epochs=3))
    done = []

    def stop_after_one(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return original(*arguments)

    original = mentions.train_epoch
    monkeypatch.setattr(mentions, "train_epoch", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        train_mentions(**files, folder=tmp_path / "parts", settings=settings(tiny_bert, epochs=3))
    monkeypatch.setattr(mentions, "train_epoch", original)
    train_mentions(**files, folder=tmp_path / "parts", settings=settings(tiny_bert, epochs=3))
    whole, parts = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    (tmp_path / "parts/checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be read .*; remove it to start anew"):
        train_mentions(**files, folder=tmp_path / "parts", settings=settings(tiny_bert, epochs=3))


def test_a_checkpoint_of_other_settings_is_refused(files, tiny_bert, tmp_path):
    more = tmp_path / Path(files["train"][0]).name  # a second file of the same name
    more.write_bytes(Path(files["train"][0]).read_bytes())
    files = files | {"train": [str(more), *files["train"]]}
    train_mentions(**files, folder=tmp_path / "out", settings=settings(tiny_bert, epochs=1))
    with pytest.raises(UserError, match="is of other settings or data; name another folder, or remove it"):
        train_mentions(**files, folder=tmp_path / "out", settings=settings(tiny_bert, epochs=2))
    more.write_text(json.dumps(json.loads(more.read_text())[::-1]))
    with pytest.raises(UserError, match="is of other settings or data"):
        train_mentions(**files, folder=tmp_path / "out", settings=settings(tiny_bert, epochs=1))


def test_documents_of_dev_and_test_are_not_trained_on(files, tiny_bert, tmp_path, capsys):
    both = [*files["train"], files["dev"]]
    train_mentions(both, files["dev"], tmp_path / "out", settings(tiny_bert, epochs=1))
    said = capsys.readouterr()
    count = len(json.loads(Path(files["dev"]).read_text()))
    assert f"WARNING: {count} training documents are left out, as dev or test has them" in said.err
    assert json.loads((tmp_path / "out/detector/training.json").read_text())["documents"] == 6


def test_an_encoder_that_is_no_bert_is_refused(tiny_roberta):
    with pytest.raises(UserError, match="is no BERT but 'roberta'; the detector needs one"):
        mentions.new_model(str(tiny_roberta))


def test_the_shipped_card_is_that_of_its_record():
    record = json.loads((MODEL / "training.json").read_text())
    assert (MODEL / "README.md").read_text(encoding="utf-8") == mentions.card_of(record)
    assert f"{record['scores']['test']['typed_f1']:.2f}" in (MODEL / "README.md").read_text(encoding="utf-8")
