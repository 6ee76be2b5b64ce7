"""Options of a prediction, for programs, Python and spaCy: how documents are read, and which relations are kept."""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

from hingeabl.errors import UserError
from hingeabl.training.hub import SHIPPED


class PredictionOptions(NamedTuple):
    """How documents are read, and which of the predicted relations are kept.

    min_confidence  only those that are right with at least this probability
    types           "learned" drops those whose entities' types the relation was never seen with in training, "any"
                    keeps them; None is what the run's config.json says, for a run that is not published "any"
    shift           a number that is added to the threshold: more than 0 predicts fewer relations, less predicts more
    max_seq_length  documents are cut at so many word pieces; None cuts none
    max_distance    only pairs whose mentions are at most so many sentences apart are scored; None scores all
    text_model      name or folder of spaCy's pipeline that reads plain text; None is the detector of this repository
    """

    min_confidence: float = 0.0
    types: str | None = None
    shift: float = 0.0
    max_seq_length: int | None = None
    max_distance: int | None = None
    text_model: str | None = None

    def check(self) -> None:
        """Raise UserError for an invalid value."""
        if not 0 <= self.min_confidence <= 1:
            raise UserError(f"min_confidence {self.min_confidence:g}: must be from 0 to 1; correct it")
        if self.types not in (None, "learned", "any"):
            raise UserError(f"types {self.types!r}: is neither 'learned' nor 'any'; correct it")
        if self.text_model == "":
            raise UserError("text_model '': names no pipeline of spaCy; name one, or leave it out")
        if not math.isfinite(self.shift):
            raise UserError(f"shift {self.shift}: must be a finite number; correct it")
        for name, least in (("max_seq_length", 3), ("max_distance", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise UserError(f"{name} {value}: must be a whole number, {least} or more; correct it")


DEFAULT = PredictionOptions()


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command line for the run and its precision, and for the fields of PredictionOptions."""
    text = "a finished run's seed folder, or hub name (owner/name[@revision]); default: the shipped model"
    parser.add_argument("--load_path", default=str(SHIPPED), help=text)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the run's, as in train.py")
    parser.add_argument("--min_confidence", type=float, default=0.0, help="only relations that are as probable; 0 to 1")
    parser.add_argument(
        "--types",
        choices=("learned", "any"),
        help="learned: no relation between types that it was never seen with in training; default: learned with the "
        "shipped model, any with a run that is not published",
    )
    parser.add_argument("--shift", type=float, default=0.0, help="added to the threshold; default: 0")
    parser.add_argument("--max_seq_length", type=int, help="cut documents at so many word pieces; default: cut none")
    parser.add_argument(
        "--max_distance", type=int, help="only pairs with mentions at most so many sentences apart; default: all pairs"
    )
    parser.add_argument(
        "--text_model", help="spaCy's pipeline that reads plain text; default: the detector of this repository"
    )


def prediction_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of add_prediction_options' options, for Predictor.from_run."""
    return {name: getattr(args, name) for name in PredictionOptions._fields}
