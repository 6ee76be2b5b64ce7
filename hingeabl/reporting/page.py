"""One self-contained HTML file with tables, figures and a browser of pairs; report.py and predict.py write it.

Its style and program are in web/. It asks for nothing over a network, and what comes from documents is JSON in it, with
every "<" escaped, that the program shows as text.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from hingeabl.core.evaluation import PATTERNS
from hingeabl.core.utils import columns_of_rows
from hingeabl.data.relations import RELATION_NAMES
from hingeabl.data.schema import Document
from hingeabl.files import read_json
from hingeabl.reporting.pairs import Pairs

WEB = Path(__file__).parent / "web"
MEANINGS = {
    "correct": "what is predicted is what is gold",
    "FP": "some relation is predicted, but not the gold ones exactly",
    "FN_CRK": "nothing is predicted, though every gold relation outranks every other: the threshold is too high",
    "FN_IRK": "nothing is predicted, and some other relation outranks a gold one",
    "predicted": "some relation is predicted; there are no gold relations to compare with",
}
TOP_RELATIONS = 7  # relations of the highest scores that a chart shows, besides the gold and the predicted ones


def write_page(file: IO[str], title: str, sections: dict[str, str], browser: str, data: Iterable[str]) -> None:
    """Write the page: `sections` are HTML by heading, `browser` is the heading of the pairs, `data` what about_block,
    documents_block and pairs_block give, written as it comes.
    Documents come in their order; those of one block, and a run's pairs, may be spread over several."""
    parts = {"title": html.escape(title), "browser": html.escape(browser)}
    parts["style"], parts["script"] = (
        (WEB / f"page.{extension}").read_text(encoding="utf-8") for extension in ("css", "js")
    )
    names = {heading: f"section-{number}" for number, heading in enumerate(sections)}
    links = [*((anchor, heading) for heading, anchor in names.items()), ("pairs", browser)]
    parts["links"] = "".join(f'<a href="#{anchor}">{html.escape(heading)}</a>' for anchor, heading in links)
    parts["sections"] = "\n".join(
        f'<section id="{names[heading]}">\n<h2>{html.escape(heading)}</h2>\n{content}\n</section>'
        for heading, content in sections.items()
    )
    before, after = (WEB / "page.html").read_text(encoding="utf-8").split("{{data}}")
    file.write(fill_template(before, parts))
    for line in data:
        file.write(line + "\n")
    file.write(fill_template(after, parts))


def fill_template(template: str, parts: dict[str, str]) -> str:
    """A template with each {{name}} replaced once; the inserted texts are not searched again."""
    pieces = template.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))


def block(attribute: str, value: Any) -> str:
    """JSON that a page's program reads; every "<" is escaped, so no content can end or open an element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f'<script type="application/json" {attribute}>{text.replace("<", chr(92) + "u003c")}</script>'


def about_block(rel2id: dict[str, int], runs: list[str], gold: bool) -> str:
    """The relations, the runs' names, and whether documents have labels."""
    names = read_json(RELATION_NAMES)
    patterns = PATTERNS if gold else ("predicted",)
    about = {
        "relations": [names.get(relation, relation) for relation in sorted(rel2id, key=rel2id.__getitem__)],
        "patterns": [[pattern, MEANINGS[pattern]] for pattern in patterns],
        "shown": list(patterns[1:] or patterns),
        "runs": runs,
        "gold": gold,
    }
    return block("data-about", about)


def documents_block(documents: Iterable[Document], rel2id: dict[str, int]) -> str:
    """Documents: [title, sentences, [[name, type, [[sentence, start, end], ...]], ...], [[head, tail, class], ...]]."""
    rows = []
    for document in documents:
        entities = [
            [*name_and_type(mentions), [[m["sent_id"], *m["pos"]] for m in mentions]]
            for mentions in document["vertexSet"]
        ]
        labels = [[label["h"], label["t"], rel2id[label["r"]]] for label in document.get("labels", [])]
        rows.append([document["title"], document["sents"], entities, labels])
    return block("data-documents", rows)


def name_and_type(mentions: list[dict[str, Any]]) -> tuple[str, str]:
    """Name and type of an entity's first mention, "" for an entity without mention."""
    first = mentions[0] if mentions else {"name": ""}
    return first["name"], first.get("type", "")


def pairs_block(run: int, pairs: Pairs, first: int = 0) -> str:
    """The pairs of the page's run of that number, whose first document is the page's document number `first`.

    Each is [document, head, tail, pattern, threshold, [predicted class, ...], [class, score, ...]], with the relations
    of the highest scores, and the gold and predicted ones; the pattern is a place in about_block's list. Where the run
    predicts evidence, a list of sentences follows.
    """
    best = pairs.scores[:, 1:].topk(min(TOP_RELATIONS, pairs.scores.shape[1] - 1), dim=1).indices + 1
    predicted = columns_of_rows(pairs.predicted)
    shown = columns_of_rows((pairs.labels | pairs.predicted).scatter(1, best, True))
    scores, threshold = (values.double().round(decimals=2).tolist() for values in (pairs.scores, pairs.threshold))
    document, entities, pattern = ((pairs.document + first).tolist(), pairs.entities.tolist(), pairs.pattern.tolist())
    rows: list[list[Any]] = [
        [number, head, tail, pattern_number, pair_threshold, relations, [part for c in classes for part in (c, row[c])]]
        for number, (head, tail), pattern_number, pair_threshold, relations, classes, row in zip(
            document, entities, pattern, threshold, predicted, shown, scores, strict=True
        )
    ]
    if pairs.evidence is not None:
        keys = zip(pairs.document.tolist(), *pairs.entities.T.tolist(), strict=True)
        rows = [[*row, pairs.evidence.get(key, [])] for row, key in zip(rows, keys, strict=True)]
    return block(f'data-run="{run}"', rows)


def image(png: bytes, caption: str) -> str:
    """An HTML figure that holds the picture itself."""
    text = html.escape(caption)
    data = base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
