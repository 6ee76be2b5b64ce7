"""The model card of a published run: what its record says, in words and tables, and nothing else."""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from hingeabl.core import ROOT
from hingeabl.files import read_text
from hingeabl.reporting.names import model_title
from hingeabl.reporting.records import Run
from hingeabl.reporting.rendering import markdown, markdown_rows

SCORES = {
    "f1": "F1",
    "ign_f1": "Ign F1",
    "precision": "Precision",
    "recall": "Recall",
    "macro_f1": "Macro F1",
    "macro_ign_f1": "Macro Ign F1",
}
MORE_SCORES = {"f1_intra": "F1 within sentences", "f1_inter": "F1 across sentences", "evidence_f1": "evidence F1"}
LIMITS = """\
- The model finds relations between entities that it is given with their mentions, and only the relations that
  `rel2id.json` lists.
- It was trained on text of the kind that the training file holds. Scores on other text may be much lower; they were not
  measured here.
- Its training documents were cut at `max_seq_length` word pieces. Longer ones are read whole.
- Scores are not probabilities. A predicted relation is what the text seems to say, not a checked fact.
- A single seed's score is not the expected score: compare means over seeds.
- Encoder and data have licenses of their own."""


def write_card(config: dict[str, Any], run: Run, seeds: list[Run], name: str, confidence: dict[str, Any]) -> str:
    """The card's text without its front matter. `config` is the run's, as published; `seeds` are as in score_table;
    `name` is the model's on the hub; `confidence` its confidence.json or {}."""
    settings = config["settings"]
    parts = {
        "Data": data_table(config),
        "Decision rule": decision_text(config),
        "Scores": score_table(run, seeds),
        **({"Confidence": confidence_text(confidence)} if confidence else {}),
        "Settings": settings_table(config),
        "How to use": usage(name),
        "Limits": LIMITS,
        "Citation": citation(),
    }
    head = (
        f"# {name}\n\nDocument-level relation extraction: {model_title(run.backbone)} on the encoder "
        f"`{settings['model_name_or_path']}`, trained with the loss `{run.loss}`, seed {run.seed}. This card was "
        "written by `scripts/publish.py` from the run's own files."
    )
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in parts.items())]) + "\n"


def front_matter(run: Run, base_model: str | None, license: str | None) -> str:
    """The card's first lines, YAML between two lines of dashes. `base_model` is the encoder's name on the hub, where it
    has one. Without a license it is "other", unspecified."""
    fields: dict[str, Any] = {
        "library_name": "hingeabl",
        "license": license or "other",
        **({} if license else {"license_name": "unspecified"}),
        "pipeline_tag": "text-classification",
        "tags": ["relation-extraction", "document-level-relation-extraction", run.backbone, run.loss],
        **({"base_model": base_model} if base_model else {}),
    }
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---\n"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return markdown_rows([heads, *(list(map(markdown, row)) for row in rows)], left=len(heads))


def shown(value: Any) -> str:
    """A setting's value, as text."""
    if value is None:
        return "not set"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def data_table(config: dict[str, Any]) -> str:
    """Each file that decided the run's numbers, with its SHA-256."""
    names = {split: f"`{config['settings'][f'{split}_file']}`" for split in ("train", "dev", "test")}
    rows = [[use, names.get(use, ""), f"`{checksum}`"] for use, checksum in config["data"].items()]
    return table(["use", "file", "SHA-256"], rows)


def decision_text(config: dict[str, Any]) -> str:
    """How scores become predictions, in words; `decision` in config.json says the same."""
    decision = config["decision"]
    limits = {
        "among_highest": f" and is among the pair's {decision['num_labels']} highest scores, all classes counted",
        "among_highest_of_group": f" and is among the group's {decision['num_labels']} highest, the threshold counted",
    }
    text = f"For a pair of entities, a relation is predicted if its score exceeds {decision['threshold']}"
    text += f"{limits.get(decision['rule'], '')}."
    if shift := decision.get("threshold_shift"):
        text += f" After the training {shift:.4g} was added to the threshold"
        text += ", which gives the highest F1 on dev." if decision["shift_is_best_on_dev"] else "."
    parameters = [f"{name} {shown(value)}" for name, value in config["loss"].items() if name != "name"]
    return f"{text} The loss's parameters ({', '.join(parameters)}) play no part in it." if parameters else text


def score_table(run: Run, seeds: list[Run]) -> str:
    """The scores of this seed in percent; their mean and sample standard deviation where there are other seeds. `seeds`
    is empty if the weights were not scored as they are here."""
    if not seeds:
        return "The compressed weights were not scored."
    text = f"In percent, of the best epoch by dev F1 (epoch {shown(run.scores.get('best_epoch'))})."
    heads = ["split", "score", f"seed {run.seed}"]
    if len(seeds) > 1:
        seed_numbers = ", ".join(map(str, sorted(seed.seed for seed in seeds)))
        text += f" Mean and sample standard deviation are over the seeds {seed_numbers}."
        heads.append("mean ± standard deviation")
    else:
        text += " They are of one seed alone, so nothing is known of their spread."
    rows = []
    for split in ("dev", "test"):
        for key, title in SCORES.items() if run.scores[split] else ():
            row = [split, title, f"{100 * run.scores[split][key]:.2f}"]
            if len(seeds) > 1:
                values = [100 * seed.scores[split][key] for seed in seeds]
                row.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")
            rows.append(row)
    more_scores = {title: run.scores["test"][key] for key, title in MORE_SCORES.items() if key in run.scores["test"]}
    more_text = ", ".join(f"{title} {100 * score:.2f}" for title, score in more_scores.items())
    return f"{text}\n\n{table(heads, rows)}" + (f"\n\nOn test, this seed: {more_text}." if more_text else "")


def confidence_text(confidence: dict[str, Any]) -> str:
    """How a margin becomes a probability, and how far that is off on test."""
    text = (
        f"The probability that a prediction is right is 1 / (1 + exp(-({confidence['slope']:.4f} * margin + "
        f"{confidence['intercept']:.4f}))), fitted to dev."
    )
    if "test_ece" in confidence:
        text += f" Expected calibration error on test, 10 bins: {confidence['test_ece']:.3f}."
    return text


def settings_table(config: dict[str, Any]) -> str:
    """Settings of train.py, and what the run was made with."""
    environment = config.get("environment", {})
    made = {
        "precision, as resolved": config.get("precision"),
        "device": config.get("device"),
        "processes": config.get("processes"),
        "git commit": environment.get("git_commit"),
        "Python": environment.get("python"),
        **environment.get("packages", {}),
    }
    rows = [*((f"`{name}`", value) for name, value in config["settings"].items()), *made.items()]
    return table(["setting", "value"], [[name, shown(value)] for name, value in rows])


def usage(name: str) -> str:
    """How to predict with the model and to score it."""
    return f"""\
From a clone of the repository that this model was trained with:

```
python predict.py --load_path {name} --input docs.json --output predictions.json
python train.py --load_path {name} --data_dir FOLDER --train_file TRAIN --dev_file DEV --test_file TEST
```

```python
from hingeabl.prediction.predictor import Predictor

model = Predictor.from_run("{name}")
```

The first command predicts the relations of documents in DocRED's format; the second scores the model on labelled
files."""


def citation() -> str:
    """The paper, as the clone's CITATION.cff names it, in BibTeX."""
    _, _, paper = read_text(ROOT / "CITATION.cff").partition("preferred-citation:")
    title, booktitle, year = (
        re.findall(rf"^  {field}: \"?(.*?)\"?$", paper, re.M)[0] for field in ("title", "collection-title", "year")
    )
    authors = re.findall(r"family-names: (.*)\n\s*given-names: (.*)", paper)
    return f"""\
Please cite the paper that the repository reproduces, and those of the model, the loss and the data.

```bibtex
@inproceedings{{{authors[0][0].lower()}{year},
  title = {{{title}}},
  author = {{{" and ".join(", ".join(author) for author in authors)}}},
  booktitle = {{{booktitle}}},
  year = {{{year}}},
}}
```"""
