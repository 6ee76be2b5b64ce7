"""What all figures share: style, colours, texts, and the files they become."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from hingeabl.core.losses import loss_names
from hingeabl.files import atomic_write, make_folder

# Okabe and Ito's colours, which the colour-blind can tell apart; grey stands for their yellow, too pale for a line.
BLACK, ORANGE, SKY, GREEN, GREY, PURPLE, BLUE, VERMILION = (
    "#000000 #E69F00 #56B4E9 #009E73 #999999 #CC79A7 #0072B2 #D55E00".split()
)
COLOURS = (BLACK, ORANGE, SKY, GREEN, GREY, PURPLE, BLUE, VERMILION)
PALE = "#C8C8C8"
FONT = "DejaVu Sans"  # comes with matplotlib
STYLE: Any = {
    "font.family": FONT,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "text.usetex": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse type 3
}
styled = matplotlib.rc_context(STYLE)  # decorates whatever draws or saves


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of so many inches, and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def loss_style(loss: str) -> dict[str, Any]:
    """Colour, marker and dashes of a loss, the same in every figure. `loss` is one of losses.loss_names()."""
    number = loss_names().index(loss)
    dashes = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
    return {"color": COLOURS[number % len(COLOURS)], "marker": "os^vDPX<"[number % 8], "linestyle": dashes}


def legend_below(figure: Figure) -> None:
    """Add a legend under the axes, in up to three columns, as many as fit the figure's width."""
    for columns in (3, 2, 1):
        legend = figure.legend(loc="outside lower center", ncols=columns)
        figure.draw_without_rendering()  # the legend's width is known only then
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def mean_and_std(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1; 0 for one seed) of values [seeds, points]: [points] each."""
    array = np.array(values)
    return array.mean(axis=0), array.std(axis=0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1])


@functools.cache
def drawable() -> frozenset[int]:
    """The characters, by code point, that the font has."""
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def fit_text(text: str, longest: int) -> str:
    """Text of a document for a figure: on one line, at most `longest` characters, "□" for characters that the font
    lacks, and "$" escaped, since it would start a formula."""
    text = " ".join(text.split())
    if len(text) > longest:
        text = text[: longest - 1].rstrip() + "…"
    return "".join(character if ord(character) in drawable() else "□" for character in text).replace("$", r"\$")


@styled
def save_figure(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write figure_<name>.png and .pdf into a folder, which is made if needed: both whole or not at all, and the same
    bytes each time. Returns their paths. Raises UserError if that fails."""
    folder = make_folder(folder)
    paths = [folder / f"figure_{name}.{extension}" for extension in ("png", "pdf")]
    with atomic_write(paths[0], "wb") as png, atomic_write(paths[1], "wb") as pdf:
        figure.savefig(png, format="png", dpi=200)
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return paths


@styled
def png_of(figure: Figure) -> bytes:
    """A figure as a PNG for a page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
