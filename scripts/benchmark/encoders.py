"""Encoders of the paper's sizes and a tiny one, and documents, for timing and counting without any download."""

import json
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizerFast, PretrainedConfig, RobertaConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS: dict[str, PretrainedConfig] = {
    "tiny": BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64),
    "bert-base": BertConfig(),
    "roberta-large": RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
}

CLASSES = 97
DOCUMENTS = {  # (word pieces, entities), as Re-DocRED's: four windows, and five
    "bert-base": [(212, 14), (251, 17), (296, 20), (371, 27)],
    "roberta-large": [(224, 14), (268, 17), (331, 20), (602, 29)],
}
LARGEST = (1024, 42)


def save_encoder(size: str, data: str | Path, folder: str | Path) -> None:
    """Write an encoder's config.json, and a word-piece tokenizer that is trained on the documents of a file."""
    CONFIGS[size].save_pretrained(folder)
    words = (" ".join(sentence) for document in json.loads(Path(data).read_text()) for sentence in document["sents"])
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(words, CONFIGS["bert-base"].vocab_size, initial_alphabet=["*"], show_progress=False)
    BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)


def document(number: int, length: int, entities: int) -> dict[str, Any]:
    """Features of a document: every third entity has two mentions, the others one, spread over the word pieces."""
    counts = [2 if entity % 3 == 0 else 1 for entity in range(entities)]
    step, position, mentions = (length - 4) // sum(counts), 0, []
    for count in counts:
        mentions.append([[position + step * i, position + step * i + 2] for i in range(count)])
        position += step * count
    return with_pairs({"title": str(number), "input_ids": [5] * length, "entity_pos": mentions})


def with_pairs(feature: dict[str, Any]) -> dict[str, Any]:
    """Features with every pair of entities, and labels."""
    count = len(feature["entity_pos"])
    pairs = [[head, tail] for head in range(count) for tail in range(count) if head != tail]
    return feature | {"hts": pairs, "labels": [[0] * CLASSES for _ in pairs]}


def documents_of(encoder: str, largest: bool = False) -> list[dict[str, Any]]:
    """Four documents: of the sample corpus for a tiny encoder, else of the sizes in DOCUMENTS, or of LARGEST."""
    if largest or encoder in DOCUMENTS:
        return [document(number, *size) for number, size in enumerate([LARGEST] * 4 if largest else DOCUMENTS[encoder])]
    features = json.loads((ROOT / "tests/data/features.json").read_text())
    return [with_pairs(feature) for feature in features[2:]]
