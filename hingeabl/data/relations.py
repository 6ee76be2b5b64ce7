"""The relation inventory: rel2id files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from hingeabl.errors import UserError
from hingeabl.files import META, read_json

DEFAULT_REL2ID = META / "rel2id.json"
RELATION_NAMES = META / "relation_names.json"  # Wikidata's property -> its English name
NO_RELATION = {"na", "no", "none", "norelation", "norel", "notrelated", "unrelated", "nr", "nil", "null", "other"}
NO_RELATION |= {"negative", "th", "threshold", "o", "nota", "noneoftheabove", "noneofabove", "norelationship"}


def load_rel2id(path: str | Path = DEFAULT_REL2ID) -> dict[str, int]:
    """Read {relation: class}; class 0 is "no relation" and doubles as the threshold class.

    Raises UserError unless the classes are 0, 1, ... without gap or repetition, and class 0 has a name that means no
    relation.
    """
    rel2id = read_json(path)
    if not isinstance(rel2id, dict) or not all(type(index) is int for index in rel2id.values()):
        raise UserError(f"{path}: must map each relation to its class number, like meta/rel2id.json")
    classes = sorted(rel2id.values())
    if classes and classes == list(range(1, len(classes) + 1)):
        none = next((name for name in rel2id if means_no_relation(name)), "Na")
        raise UserError(f"{path}: class 0 is missing; number the classes from 0, with {none!r} as 0")
    if not classes or classes[0] != 0:
        raise UserError(f'{path}: class 0 is missing; add the no-relation class, "Na": 0')
    if len(classes) < 2:
        raise UserError(f"{path}: names no relation; add those of the dataset, numbered from 1")
    if classes != list(range(len(classes))):
        repeated = [index for index, count in Counter(classes).items() if count > 1]
        gap = next((index for index in range(len(classes)) if index not in set(classes)), None)
        wrong = f"class {repeated[0]} appears twice" if repeated else f"class {gap} is missing"
        raise UserError(f"{path}: {wrong}; number the relations 0 to {len(classes) - 1} without gaps")
    [first] = [relation for relation, index in rel2id.items() if index == 0]
    if not means_no_relation(first):
        raise UserError(
            f'{path}: class 0 must mean no relation, but is {first!r}; add "Na": 0 and number the relations from 1'
        )
    return rel2id


def means_no_relation(name: str) -> bool:
    """Whether a class name means "no relation"."""
    return re.sub(r"[\W_]+", "", name).lower() in NO_RELATION
