"""The look of all figures: fonts, sizes, and one colour and marker per method everywhere.

Used by `reports.build`, which draws inside `style.applied()`, and by the figure modules. Colours
are from the palettes of Okabe and Ito (2008) and Tol (2021), made for colour-vision deficiencies
and dark enough for text; the fonts come with matplotlib, so that every machine draws the same.
"""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

COLUMN_WIDTH = 3.4  # inches, one column of a two-column paper
PAGE_WIDTH = 7.0

INK = "#222222"
MUTED = "#767676"
GRID = "#e3e3e3"

COLOURS = {
    "baseline": "#4d4d4d",
    "baseline, equal compute": "#6f7f8f",
    "+ order": "#0072b2",
    "+ debias": "#aa4499",
    "+ flow": "#009e73",
    "+ TIME": "#d55e00",
}
OTHER_COLOURS = ("#8c6d31", "#332288", "#56b4e9", "#882255")

MARKERS = {
    "baseline": "o",
    "baseline, equal compute": "p",
    "+ order": "s",
    "+ debias": "^",
    "+ flow": "D",
    "+ TIME": "v",
}


@dataclass(frozen=True)
class Verdict:
    """How a right or a wrong prediction looks: by its mark, and by a colour that is no method's."""

    mark: str
    colour: str


RIGHT, WRONG = Verdict("✓", "#004488"), Verdict("✗", "#bb1133")

_RC: dict[str, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: text stays text, and submission systems accept it
    "svg.hashsalt": "reports",
    "text.parse_math": False,  # a "$" in a label is a "$"
}


# All come with matplotlib, so that a figure is the same on a machine without the paper's own fonts. Its
# Computer Modern (cmr10) is none of them: its places are TeX's, so that "|" is drawn as a dash, "<" as "¡".
FONTS: Mapping[str, Mapping[str, Any]] = {
    "sans": {"font.family": ["DejaVu Sans"]},
    "times": {"font.family": ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"]},
}


@contextmanager
def applied(font: str = "sans") -> Iterator[None]:
    """matplotlib's defaults plus this style, whatever the user's matplotlibrc says; `font` is one of FONTS."""
    with mpl.rc_context():
        mpl.rcdefaults()
        matplotlib.style.use({**_RC, **FONTS[font]})
        yield


def short(text: str, length: int) -> str:
    """At most `length` characters, both ends kept: what tells long names apart stands at either."""
    if len(text) <= length:
        return text
    front = length // 2
    return f"{text[:front]}…{text[len(text) - (length - 1 - front) :]}"


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """The label in at most so many lines of `width` characters, shortened where that is not enough."""
    for length in range(max(len(text), 1), 0, -1):
        parts = textwrap.wrap(short(text, length), width) or [""]
        if len(parts) <= lines:
            return "\n".join(parts)
    return ""


def inches(text: str, size: float, weight: str = "normal") -> float:
    """How wide the longest line of a label is drawn."""
    font = FontProperties(family=mpl.rcParams["font.family"], weight=weight)
    widths = [
        TextPath((0, 0), line, size=size, prop=font).get_extents().width
        for line in text.split("\n")
        if line.strip()
    ]
    return max(widths, default=0.0) / 72


def colour(method: str) -> str:
    """The colour of a method: fixed for the known ones, a stable choice for any other."""
    if method in COLOURS:
        return COLOURS[method]
    digest = hashlib.sha256(method.encode()).digest()
    return OTHER_COLOURS[digest[0] % len(OTHER_COLOURS)]


def marker(method: str) -> str:
    return MARKERS.get(method, "P")


def spread(wanted: Sequence[float], sizes: Sequence[float], lowest: float) -> list[float]:
    """Positions near the wanted ones for labels of these sizes, so that none lie on each other or reach
    below `lowest`.
    """

    def size(block: Sequence[int]) -> float:
        return sum(sizes[index] for index in block)

    def bottom(block: Sequence[int]) -> float:
        centre = sum(wanted[index] for index in block) / len(block)
        return max(lowest, centre - size(block) / 2)

    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Overlapping labels form a block that is centred on the mean of what its members wanted.
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and bottom(blocks[-1]) < (bottom(blocks[-2]) + size(blocks[-2])):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = [0.0] * len(wanted)
    for block in blocks:
        for position, index in enumerate(block):
            placed[index] = bottom(block) + size(block[:position]) + sizes[index] / 2
    return placed


def render(figure: Figure, form: str) -> bytes:
    """The figure as PDF or PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # Dates and version strings would make two builds of the same numbers differ.
    fixed: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Creator": "reports.build", "Producer": "matplotlib"},
        "png": {"Software": None},
    }
    figure.savefig(buffer, format=form, dpi=220, metadata=fixed[form])
    return buffer.getvalue()
