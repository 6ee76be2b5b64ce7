"""The training of the mention detector, see hingeabl/readers/mentions.py, and its scores.

Each document is read as text, see join_tokens. The loss is the sum of two cross entropies, of a word's tag and of
whether a sentence begins there, both at the word's first piece.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import BertForTokenClassification

from hingeabl.compressed import compress
from hingeabl.core.evaluation import harmonic_mean
from hingeabl.core.utils import pick_precision
from hingeabl.data.quiet import quiet_loading
from hingeabl.data.schema import Document
from hingeabl.errors import UserError, first_line, print_warning
from hingeabl.files import atomic_write, listed, make_folder, read_json, save_tensors, sha256_of_file, write_json
from hingeabl.readers.documents import load_documents
from hingeabl.readers.joining import gold_of
from hingeabl.readers.mentions import (
    LABELS,
    SENTENCE,
    SHAPES,
    TAGS,
    MentionTagger,
    Words,
    batch_of,
    tokenizer_of,
    windows_of,
    words_of,
)
from hingeabl.training.resume import optimizer_state, state_tensors
from hingeabl.training.steps import move_schedule

ITEMS, NAMES = ("span", "typed", "sentence"), ("precision", "recall", "f1")  # of scores_of
NO_LABEL = -100  # for pieces without a loss


@dataclass
class MentionSettings:
    """The settings of the training; its weight decay is 0.01. The epoch with the highest F1 of typed mentions on dev is
    kept."""

    encoder: str = "dataset/encoders/all-MiniLM-L6-v2"  # a BERT
    epochs: int = 6
    batch_size: int = 8  # windows
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3  # of the classifier and the embeddings of shapes
    warmup_ratio: float = 0.06
    max_grad_norm: float = 1.0
    no_case: float = 0.1  # share of the windows whose words all get the shape of lower case
    seed: int = 1


class Example(NamedTuple):
    """One window of a training text: pieces and shapes [n], and for the first piece of each word its tag [n] and its
    sentence start [n], NO_LABEL for other pieces."""

    pieces: np.ndarray
    shapes: np.ndarray
    tags: np.ndarray
    starts: np.ndarray


def word_labels(
    words: Words, mentions: Iterable[tuple[int, int, str]], starts: Iterable[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The tag and the sentence start, 0 or 1, of each word, int64 [w]. If mentions overlap, the longest is tagged."""
    tags = np.zeros(len(words.spans), dtype=np.int64)
    taken = np.zeros(len(words.spans), dtype=bool)
    for start, end, entity_type in sorted(mentions, key=lambda mention: mention[0] - mention[1]):
        inside = np.flatnonzero((words.spans[:, 0] < end) & (words.spans[:, 1] > start))
        if len(inside) and not taken[inside].any():
            tags[inside], taken[inside] = TAGS.index(f"I-{entity_type}"), True
            tags[inside[0]] = TAGS.index(f"B-{entity_type}")
    begins = np.isin(words.spans[:, 0], list(starts)).astype(np.int64)
    return tags, begins


def examples_of(documents: Iterable[Document], tokenizer: Tokenizer) -> list[Example]:
    """The windows of some documents' texts, with their labels."""
    examples = []
    for document in documents:
        text, mentions, starts = gold_of(document)
        words = words_of(tokenizer, text)
        labels = np.full((2, len(words.pieces)), NO_LABEL, dtype=np.int64)
        labels[:, words.first] = word_labels(words, mentions, starts)
        for start, end, _, _ in windows_of(len(words.pieces)):
            examples.append(Example(words.pieces[start:end], words.shapes[start:end], *labels[:, start:end]))
    return examples


def new_model(encoder: str) -> BertForTokenClassification:
    """The encoder with a new classifier; each shape's embedding starts as the encoder's first segment embedding. Raises
    UserError for an encoder that is no BERT."""
    config = read_json(Path(encoder) / "config.json")
    if config.get("model_type") != "bert":
        raise UserError(f"{encoder}: is no BERT but {config.get('model_type')!r}; the detector needs one")
    with quiet_loading():
        model = BertForTokenClassification.from_pretrained(encoder, num_labels=LABELS, trust_remote_code=False)
    first = model.bert.embeddings.token_type_embeddings.weight.detach()[:1]
    model.bert.embeddings.token_type_embeddings = torch.nn.Embedding(
        SHAPES, first.shape[1], _weight=first.repeat(SHAPES, 1)
    )
    model.config.type_vocab_size = SHAPES
    return model


def loss_of(model: BertForTokenClassification, batch: Sequence[Example], specials: tuple[int, int]) -> Tensor:
    """The loss of a batch of windows, a scalar."""
    inputs = batch_of([(example.pieces, example.shapes) for example in batch], specials)
    labels = torch.full((2, *inputs["input_ids"].shape), NO_LABEL)  # [2, b, n]
    for row, example in enumerate(batch):
        labels[0, row, 1 : len(example.tags) + 1] = torch.from_numpy(example.tags)
        labels[1, row, 1 : len(example.tags) + 1] = torch.from_numpy(example.starts)
    logits = model(**inputs).logits.float()  # [b, n, LABELS]
    labelled = labels[0] != NO_LABEL
    logits, (tags, starts) = logits[labelled], (rows[labelled] for rows in labels)
    tag_loss = functional.cross_entropy(logits[:, :SENTENCE], tags)
    return tag_loss + functional.binary_cross_entropy_with_logits(logits[:, SENTENCE], starts.float())


def batches_of(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """All windows in an order drawn with `seed`; windows of similar length share a batch."""
    generator = random.Random(seed)
    order = list(range(len(examples)))
    generator.shuffle(order)
    batches = []
    for start in range(0, len(order), 32 * size):
        part = sorted(order[start : start + 32 * size], key=lambda number: len(examples[number].pieces))
        batches += [part[first : first + size] for first in range(0, len(part), size)]
    generator.shuffle(batches)
    for batch in batches:
        yield [examples[number] for number in batch]


def optimizer_of(model: BertForTokenClassification, settings: MentionSettings, steps: int) -> tuple[Any, Any]:
    """AdamW and its schedule: warm-up, then linearly to 0."""
    new = [*model.classifier.parameters(), *model.bert.embeddings.token_type_embeddings.parameters()]
    new_ids = {id(parameter) for parameter in new}
    old = [parameter for parameter in model.parameters() if id(parameter) not in new_ids]
    groups: list[dict[str, Any]] = [{"params": old}, {"params": new, "lr": settings.head_learning_rate}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.01)
    warmup = max(1, round(settings.warmup_ratio * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    return optimizer, schedule


def scores_of(tagger: MentionTagger, documents: Sequence[Document]) -> dict[str, float]:
    """Precision, recall and F1 of mentions by span and with type, and F1 of sentence starts, over whole texts, in
    percent."""
    predicted, gold = [], []
    for start in range(0, len(documents), 50):
        part = [gold_of(document) for document in documents[start : start + 50]]
        gold += [(mentions, starts) for _, mentions, starts in part]
        predicted += [(tagged.mentions, tagged.sentences) for tagged in tagger([text for text, _, _ in part])]
    scores: dict[str, float] = {}
    items_of: dict[str, Callable[[Any], set[Any]]] = {  # from (mentions, sentence starts)
        "span": lambda annotation: {mention[:2] for mention in annotation[0]},
        "typed": lambda annotation: set(annotation[0]),
        "sentence": lambda annotation: set(annotation[1]),
    }
    for name, items in items_of.items():
        pairs = [(items(guess), items(truth)) for guess, truth in zip(predicted, gold, strict=True)]
        right = sum(len(guess & truth) for guess, truth in pairs)
        precision = 100 * right / max(1, sum(len(guess) for guess, _ in pairs))
        recall = 100 * right / max(1, sum(len(truth) for _, truth in pairs))
        f1 = harmonic_mean(precision, recall)
        scores |= {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}
    return scores


def train_mentions(
    train: Sequence[str], dev: str, folder: Path, settings: MentionSettings, test: str | None = None
) -> None:
    """Train the detector and write it to `folder`/detector, with checkpoints in `folder`, from which it resumes.

    Training documents with a title of dev or test are left out, with a warning. Raises UserError if none is left.
    """
    held_out = {name: load_documents(path, typed=True) for name, path in (("dev", dev), ("test", test)) if path}
    documents = [document for path in train for document in load_documents(path, typed=True)]
    held_out_titles = {document["title"] for split in held_out.values() for document in split}
    left_out = [document["title"] for document in documents if document["title"] in held_out_titles]
    if left_out:
        print_warning(f"{len(left_out):,} training documents are left out, as dev or test has them: {listed(left_out)}")
    documents = [document for document in documents if document["title"] not in held_out_titles]
    if not documents:
        raise UserError(f"{listed(list(train))}: have no document that dev and test do not have; name other files")
    torch.manual_seed(settings.seed)
    tokenizer = tokenizer_of(settings.encoder)
    model = new_model(settings.encoder)
    tagger = MentionTagger(model, tokenizer)
    examples = examples_of(documents, tokenizer)
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)
    optimizer, schedule = optimizer_of(model, settings, steps)
    make_folder(folder)
    names = [Path(path).name for path in train]
    facts = {
        "settings": asdict(settings),
        "documents": len(documents),
        "data": {
            name if names.count(name) == 1 else f"{name} ({number})": sha256_of_file(path)
            for number, (name, path) in enumerate(zip(names, train, strict=True), 1)
        },
    }
    checkpoint = folder / "checkpoint.safetensors"
    history = load_state(checkpoint, model, optimizer, schedule, facts) if checkpoint.exists() else []
    print(f"{len(documents):,} documents, {len(examples):,} windows, {steps:,} steps")
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.monotonic()
        loss = train_epoch(model, examples, settings, optimizer, schedule, epoch, tagger.specials)
        scores = scores_of(tagger, held_out["dev"])
        history.append({"epoch": epoch, "loss": loss, "minutes": (time.monotonic() - started) / 60, "dev": scores})
        print(f"epoch {epoch}: loss {loss:.4f}, dev span F1 {scores['span_f1']:.2f}, typed {scores['typed_f1']:.2f}")
        if scores["typed_f1"] >= max(record["dev"]["typed_f1"] for record in history):
            write_detector(folder / "detector", model, settings, facts | {"epoch": epoch, "history": history})
        state = {"facts": facts, "history": history, "step": schedule.last_epoch}
        save_tensors(checkpoint, state_tensors(model, optimizer), {"state": json.dumps(state)})
    final = MentionTagger.load(folder / "detector")
    final_scores = {name: scores_of(final, split) for name, split in held_out.items()}
    record = read_json(folder / "detector" / "training.json")
    record |= {"history": history, "scores": final_scores}
    write_json(folder / "detector" / "training.json", record)
    with atomic_write(folder / "detector" / "README.md") as file:
        file.write(card_of(record))
    for name, scores in final_scores.items():
        print(
            f"{name}, as written: span F1 {scores['span_f1']:.2f}, typed {scores['typed_f1']:.2f}, "
            f"sentence starts {scores['sentence_f1']:.2f}"
        )


def load_state(
    path: Path, model: BertForTokenClassification, optimizer: Any, schedule: Any, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Restore a training from its checkpoint; returns the records of its epochs. Raises UserError for a checkpoint of
    other `facts`, or one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); remove it to start anew") from None
    if state["facts"] != facts:
        raise UserError(f"{path}: is of other settings or data; name another folder, or remove it")
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")})
    optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state(tensors, model)})
    move_schedule(schedule, state["step"])
    return state["history"]


def train_epoch(
    model: BertForTokenClassification,
    examples: Sequence[Example],
    settings: MentionSettings,
    optimizer: Any,
    schedule: Any,
    epoch: int,
    specials: tuple[int, int],
) -> float:
    """One epoch, in bf16 if the processor has it; returns its mean loss. Random numbers depend only on the seed and the
    epoch, so that a resumed training equals one that was not stopped."""
    model.train()
    seed = 1000 * settings.seed + epoch
    torch.manual_seed(seed)
    generator = random.Random(seed)
    total, number = 0.0, 0
    count = math.ceil(len(examples) / settings.batch_size)
    bf16 = pick_precision(None, torch.device("cpu")) == "bf16"
    with tqdm(batches_of(examples, settings.batch_size, seed), f"epoch {epoch}", count) as bar:
        for batch in bar:
            batch = [
                window._replace(shapes=window.shapes * (generator.random() >= settings.no_case)) for window in batch
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(model, batch, specials)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            total, number = total + loss.item(), number + 1
            bar.set_postfix(loss=f"{total / number:.4f}")
    model.eval()
    return total / max(1, number)


def write_detector(folder: Path, model: BertForTokenClassification, settings: MentionSettings, facts: Any) -> None:
    """Write the detector's files: weights in 8 bits, configuration, tokenizer, and a record of the training."""
    make_folder(folder)
    save_tensors(folder / "model.safetensors", compress(model.state_dict()))
    keys = (
        *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
    )
    labels = dict(enumerate([*TAGS, "sentence start"]))
    write_json(folder / "config.json", {key: getattr(model.config, key) for key in keys} | {"id2label": labels})
    (folder / "tokenizer.json").write_bytes((Path(settings.encoder) / "tokenizer.json").read_bytes())
    write_json(folder / "training.json", facts)


def card_of(record: dict[str, Any]) -> str:
    """The model card of a detector, from its training.json."""
    rows = "\n".join(
        f"| {split} | " + " | ".join(f"{scores[f'{item}_{name}']:.2f}" for item in ITEMS for name in NAMES) + " |"
        for split, scores in record["scores"].items()
    )
    data = "\n".join(f"- `{name}` (SHA-256 `{checksum}`)" for name, checksum in record["data"].items())
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
    return f"""# Mentions and sentences of plain text

A token classifier on `{record["settings"]["encoder"]}`. For each word it tells the tag of a mention (B or I of PER,
ORG, LOC, TIME, NUM, MISC; or O), and whether a sentence begins there. `predict.py` reads plain text with it; in Python:

```python
from hingeabl.readers.mentions import MentionTagger

[found] = MentionTagger.load()(["Marie Curie was born in Warsaw."])
```

## Scores

Documents are read as running text; a mention counts where its characters are the same. In percent, after epoch
{record["epoch"]}, the best by typed F1 on dev:

| split | span precision | recall | F1 | typed precision | recall | F1 | sentence starts precision | recall | F1 |
|---|---|---|---|---|---|---|---|---|---|
{rows}

## Training

`bash scripts/train_mentions.sh`, on the mentions of {record["documents"]:,} documents; those that dev or test
have too, by title, were left out:

{data}

Settings: {settings}. Weights are stored in 8 bits with a scale for each row.

## Limits

English Wikipedia, as DocRED's annotators marked it: names, nationalities, dates and numbers are mentions,
pronouns and professions are not. Other kinds of text were not measured, nor other languages.

## Licences

The weights are MIT, as are DocRED and Re-DocRED, whose text is from Wikipedia (CC BY-SA). The encoder
(all-MiniLM-L6-v2) is Apache-2.0.
"""
