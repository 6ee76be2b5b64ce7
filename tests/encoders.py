"""Encoders of the paper's sizes, and a tiny one, with random weights, for timing and counting: nothing is downloaded."""

import json
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizerFast, PretrainedConfig, RobertaConfig

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


def save_encoder(size: str, data: str | Path, folder: str | Path) -> None:
    """Write an encoder's config.json, and a word-piece tokenizer that is trained on the documents of a file."""
    CONFIGS[size].save_pretrained(folder)
    words = (" ".join(sentence) for document in json.loads(Path(data).read_text()) for sentence in document["sents"])
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(words, CONFIGS["bert-base"].vocab_size, initial_alphabet=["*"], show_progress=False)
    BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
