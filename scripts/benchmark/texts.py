"""Documents per second from raw text to relations, by stage: mentions, entities, relations.

python scripts/benchmark/texts.py --data dataset/redocred/dev_revised.json --documents 100
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hingeabl.errors import run_command_line
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.documents import load_documents
from hingeabl.readers.joining import join_tokens
from hingeabl.readers.mentions import shipped_tagger
from hingeabl.readers.text import Text, document_of_detection


def main() -> None:
    """Time each stage on the same texts, after one warm-up."""
    parser = argparse.ArgumentParser(description="Time the way from raw text to relations, by stage.")
    parser.add_argument("--data", required=True, metavar="FILE", help="documents in DocRED's schema, read as text")
    parser.add_argument("--documents", type=int, default=100, help="how many of them; default: 100")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    texts = [
        Text(join_tokens(document["sents"])[0], document["title"], document["title"])
        for document in load_documents(args.data)[: args.documents]
    ]
    tagger, predictor = shipped_tagger(), Predictor()
    seconds: dict[str, float] = {}
    for measured in (texts[:8], texts):
        start = time.perf_counter()
        mentions = tagger([text.text for text in measured])
        tagged = time.perf_counter()
        documents = [
            document_of_detection(*text_and_mentions) for text_and_mentions in zip(measured, mentions, strict=True)
        ]
        joined = time.perf_counter()
        predictor.predict(documents)
        end = time.perf_counter()
        seconds = {
            "mentions": tagged - start,
            "entities": joined - tagged,
            "relations": end - joined,
            "all": end - start,
        }
    words = sum(len(text.text.split()) for text in texts) / len(texts)
    print(f"{len(texts)} texts of {words:.0f} words, {torch.get_num_threads()} threads, {predictor.precision}:")
    for stage, taken in seconds.items():
        print(f"{stage:>10}: {len(texts) / taken:.1f} documents/s")


if __name__ == "__main__":
    run_command_line(main)
