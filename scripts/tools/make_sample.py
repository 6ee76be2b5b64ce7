"""Write the sample corpus: small, invented, deterministic, in DocRED's schema.

    python scripts/tools/make_sample.py [OUTPUT_DIR]     (default: dataset/sample)

Documents are a few short stories about invented people, films, bands, companies and rivers, told in templates. Like
real ones they hold several mentions of an entity, pairs with several relations, facts whose subject is named in another
sentence, facts that follow from two sentences, about 94 % of pairs without relation, and now and then more than 512
word pieces. The corpus shows that the programs work; scores on it say nothing about relation extraction.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hingeabl.errors import UserError, run_command_line

SPLITS = {"train": 64, "dev": 24, "test": 24}
LONG_EVERY = 16  # one document of so many is too long for a single encoder pass

NAMES = {
    "FIRST": "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Karin Leon Marta Nils Olga Peter Rosa Simon",
    "LAST": "Abel Brandt Castell Dorn Ekberg Falk Gruber Hansen Ivers Jansen Keller Lindt Moreau Novak Okafor Petrov "
    "Quist Rossi Stein Varga",
    "COUNTRY": "Norway France Brazil Japan Kenya Canada Poland Italy",
    "CITY": "Velmar Ostrand Kirona Balford Tessin Orvala Dunmere Hallow Pinara Castrel Lurgan Mirefield Solvik Trenta "
    "Wexmoor Yarrow Zelten Brisk Corvane Elmstead Farrin Gorsk Ivelle Jorvin",
    "ADJECTIVE": "Silent Golden Northern Broken Hidden Crimson Distant Hollow Electric Winter",
    "NOUN": "River Garden Mirror Harvest Signal Island Orchard Lantern Voyage Empire",
    "MONTH": "January March April June July September October December",
    "BUSINESS": "Records Industries Press Motors",
}
REMARKS = ("X is remembered to this day .", "Much has been written about X .", "Some still speak of X now and then .")
FILLER = (
    "It was a matter of some debate at the time .",
    "Many accounts of those years have survived , and most of them agree .",
    "Critics remembered it long afterwards , though not always with kindness .",
    "Little else is known about the circumstances .",
)

# A line is a sentence and the facts it states, as (relation, head role, tail role). S is the story's subject, by its
# full name; s is a short name or a pronoun, so that the subject may not be named in the sentence. Other roles are
# TYPE or TYPE:tag, and a tag names one entity throughout its story.
STORIES: dict[str, list[tuple[str, list[tuple[str, str, str]]]]] = {
    "person": [
        ("S was born on TIME:birth in CITY:home .", [("P569", "S", "TIME:birth"), ("P19", "S", "CITY:home")]),
        ("s studied at the SCHOOL .", [("P69", "S", "SCHOOL")]),
        ("On TIME:wedding , s married PER:spouse .", [("P26", "S", "PER:spouse"), ("P26", "PER:spouse", "S")]),
        ("s worked for COMPANY for many years .", [("P108", "S", "COMPANY")]),
        ("s died in CITY:home on TIME:death .", [("P20", "S", "CITY:home"), ("P570", "S", "TIME:death")]),
        (
            "CITY:home is a city in COUNTRY .",
            [("P17", "CITY:home", "COUNTRY"), ("P131", "CITY:home", "COUNTRY"), ("P27", "S", "COUNTRY")],
        ),
    ],
    "film": [
        ("S is a film directed by PER:director .", [("P57", "S", "PER:director")]),
        ("s was written and produced by PER:director .", [("P58", "S", "PER:director"), ("P162", "S", "PER:director")]),
        ("s stars PER:actor and PER:other .", [("P161", "S", "PER:actor"), ("P161", "S", "PER:other")]),
        ("s was released in COUNTRY on TIME .", [("P495", "S", "COUNTRY"), ("P577", "S", "TIME")]),
    ],
    "album": [
        ("S is an album by the band BAND .", [("P175", "S", "BAND")]),
        ("s was released by COMPANY on TIME .", [("P264", "S", "COMPANY"), ("P577", "S", "TIME")]),
        ("The singer of BAND is PER .", [("P527", "BAND", "PER"), ("P463", "PER", "BAND"), ("P361", "PER", "BAND")]),
        ("s was followed by WORK .", [("P156", "S", "WORK"), ("P155", "WORK", "S")]),
    ],
    "company": [
        ("S has its headquarters in CITY .", [("P159", "S", "CITY")]),
        ("s was founded by PER on TIME .", [("P112", "S", "PER"), ("P571", "S", "TIME")]),
        ("s owns COMPANY:sub .", [("P355", "S", "COMPANY:sub"), ("P749", "COMPANY:sub", "S")]),
        (
            "CITY belongs to COUNTRY .",
            [("P17", "CITY", "COUNTRY"), ("P131", "CITY", "COUNTRY"), ("P17", "S", "COUNTRY")],
        ),
    ],
    "river": [
        ("The S flows through COUNTRY .", [("P17", "S", "COUNTRY")]),
        ("On its banks lies CITY .", [("P206", "CITY", "S")]),
        ("s flows into the RIVER .", [("P403", "S", "RIVER")]),
    ],
}
SUBJECT_TYPE = {"person": "PER", "film": "WORK", "album": "WORK", "company": "COMPANY", "river": "RIVER"}
PRONOUN = {"person": "This person", "film": "It", "album": "It", "company": "It", "river": "It"}
TYPES = ("PER", "WORK", "COMPANY", "SCHOOL", "BAND", "RIVER", "TIME", "COUNTRY", "CITY")
DOCRED_TYPE = {"PER": "PER", "WORK": "MISC", "COMPANY": "ORG", "SCHOOL": "ORG", "BAND": "ORG", "TIME": "TIME"}


def invent_names(entity_type: str, rng: random.Random) -> list[str]:
    """An entity's full name and, after it, a shorter one where it has one."""
    pick = {key: rng.choice(words.split()) for key, words in NAMES.items()}
    if entity_type == "PER":
        return [f"{pick['FIRST']} {pick['LAST']}", pick["LAST"]]
    if entity_type == "WORK":
        return [f"The {pick['ADJECTIVE']} {pick['NOUN']}", pick["NOUN"]]
    patterns = {
        "COMPANY": f"{pick['LAST']} {pick['BUSINESS']}",
        "BAND": f"{pick['ADJECTIVE']} {pick['NOUN']}s",
        "SCHOOL": f"University of {pick['CITY']}",
        "RIVER": f"{pick['LAST']} River",
        "TIME": f"{rng.randint(1, 28)} {pick['MONTH']} {rng.randint(1890, 2010)}",
    }
    return [patterns.get(entity_type) or pick[entity_type]]


class Writer:
    """A document while it is written: sentences, entities with their mentions, and labels."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sents: list[list[str]] = []
        self.entities: dict[str, list[dict[str, Any]]] = {}  # full name -> mentions
        self.labels: dict[tuple[str, str, str], list[int]] = {}  # (relation, head, tail) -> evidence

    def tell(self, story_type: str) -> None:
        """Append one story: its first line, some of the others, and remarks on who and what was named."""
        lines = STORIES[story_type]
        cast: dict[str, tuple[list[str], str]] = {}  # role -> (names, type)
        first = len(self.sents)
        for text, facts in [lines[0], *(line for line in lines[1:] if self.rng.random() < 0.6)]:
            named = self.sentence(text, story_type, cast)
            for relation, head, tail in facts:
                if head in cast and tail in cast:
                    evidence = {len(self.sents) - 1} | ({first} if not {head, tail} <= named else set())
                    self.labels[relation, cast[head][0][0], cast[tail][0][0]] = sorted(evidence)
            if self.rng.random() < 0.4:
                names, entity_type = self.rng.choice(list(cast.values()))
                self.sentence(self.rng.choice(REMARKS), story_type, {"X": (names[-1:], entity_type)}, names[0])

    def sentence(
        self, text: str, story_type: str, cast: dict[str, tuple[list[str], str]], entity: str | None = None
    ) -> set[str]:
        """Append a template with its roles filled in, new ones added to the cast; returns the roles that it names."""
        tokens: list[str] = []
        named: set[str] = set()
        for word in text.split():
            role = "S" if word == "s" else word
            entity_type = SUBJECT_TYPE[story_type] if role == "S" else role.split(":")[0]
            if role not in cast and role != "S" and entity_type not in TYPES:
                tokens.append(word)
                continue
            if role not in cast:
                cast[role] = (self.new_names(entity_type), entity_type)
            names, entity_type = cast[role]
            if word == "s" and self.rng.random() < 0.3:
                tokens += PRONOUN[story_type].split()
                continue
            name = names[-1] if word == "s" else names[0]
            self.mention(entity or names[0], name, len(tokens), entity_type)
            named.add(role)
            tokens += name.split()
        self.sents.append(tokens)
        return named

    def new_names(self, entity_type: str) -> list[str]:
        """Names that no entity of the document has; only places may come up again, as the same entity."""
        names = invent_names(entity_type, self.rng)
        while names[0] in self.entities and entity_type not in ("COUNTRY", "CITY"):
            names = invent_names(entity_type, self.rng)
        return names

    def mention(self, entity: str, name: str, start: int, entity_type: str) -> None:
        """Note a mention of an entity at a token of the sentence being written."""
        self.entities.setdefault(entity, []).append(
            {
                "name": name,
                "sent_id": len(self.sents),
                "pos": [start, start + len(name.split())],
                "type": DOCRED_TYPE.get(entity_type, "LOC"),
            }
        )

    def document(self, title: str) -> dict[str, Any]:
        """The finished document in DocRED's schema."""
        index = {name: number for number, name in enumerate(self.entities)}
        labels = [
            {"h": index[head], "t": index[tail], "r": relation, "evidence": evidence}
            for (relation, head, tail), evidence in self.labels.items()
            if head != tail
        ]
        return {"title": title, "sents": self.sents, "vertexSet": list(self.entities.values()), "labels": labels}


def write_document(title: str, stories: int, filler: int, rng: random.Random) -> dict[str, Any]:
    """One document of so many stories, each followed by up to `filler` sentences without entities."""
    writer = Writer(rng)
    for _ in range(stories):
        writer.tell(rng.choice(list(STORIES)))
        writer.sents += [rng.choice(FILLER).split() for _ in range(rng.randint(0, filler))]
    return writer.document(title)


def make_sample(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The corpus: {"train": documents, "dev": ..., "test": ...}, the same for the same seed."""
    rng = random.Random(seed)
    corpus: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for split, count in SPLITS.items():
        for number in range(count):
            stories, filler = (5, 12) if number % LONG_EVERY == 1 else (rng.randint(2, 4), 1)
            corpus[split].append(write_document(f"Sample {split} {number}", stories, filler, rng))
    return corpus


def thin_labels(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents with about half of their labels left out: they stand for distantly labelled ones."""
    rng = random.Random(0)
    return [
        {**document, "labels": [label for label in document["labels"] if rng.random() < 0.5]} for document in documents
    ]


def check_folder(folder: Path) -> None:
    """Raise UserError if the path is not a folder, or holds data files of another corpus."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name one")
    for path in (folder / f"{split}.json" for split in (*SPLITS, "train_distant")):
        if path.exists() and b'"Sample ' not in path.read_bytes()[:200]:
            raise UserError(f"{path}: is of another corpus and would be replaced; name another folder")


def main() -> None:
    """Write train.json, dev.json, test.json and train_distant.json."""
    parser = argparse.ArgumentParser(description="Write the sample corpus: small, invented, in DocRED's schema.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=ROOT / "dataset" / "sample", metavar="OUTPUT_DIR", help="%(default)s"
    )
    folder = parser.parse_args().folder
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = make_sample()
    corpus["train_distant"] = thin_labels(corpus["train"])
    for split, documents in corpus.items():
        temporary = folder / f"{split}.json.{os.getpid()}.tmp"  # trainings that run now may read the old one
        temporary.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / f"{split}.json")
    print(f"sample corpus: {', '.join(f'{count} {split}' for split, count in SPLITS.items())} documents in {folder}")


if __name__ == "__main__":
    run_command_line(main)
