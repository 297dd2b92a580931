"""`paper.tex`: all tables and figures of a setting as a document, two columns wide as ICML's are: to look at in print,
and to take from. After `reports.latex`, which makes the tables; written beside them.
"""

from __future__ import annotations

from reports.latex import COLUMN, PAGE, text_tex
from reports.page import BuiltFigure, Report

_HEAD = rf"""% Written by `python -m reports.build`. Compile it in its folder: pdflatex paper.tex
\documentclass[twocolumn]{{article}}
\usepackage[T1]{{fontenc}}
\usepackage{{textcomp,booktabs,graphicx,rotating}}
\usepackage[letterpaper,textwidth={PAGE}pt,textheight=650pt,columnsep={PAGE - 2 * COLUMN}pt]{{geometry}}
\extrafloats{{200}}
"""


def paper(report: Report) -> str:
    """Every table with rows and every figure that was drawn."""
    tables = [rf"\input{{{item.name}.tex}}" for item in report.filled]
    lines = [
        _HEAD + rf"\title{{{text_tex(report.title.capitalize())}}}",
        r"\author{}\date{}",
        r"\begin{document}",
        r"\maketitle",
        rf"Data: {text_tex(report.data)}.",
        *(rf"{text_tex(name)}: {text_tex(text)}." for name, text in report.made),
        *_cleared(tables),
        *_cleared([_figure(item) for item in report.drawn]),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _cleared(floats: list[str]) -> list[str]:
    """So many floats at once are printed before TeX waits for more."""
    return [line + (r"\clearpage" if k % 6 == 5 else "") for k, line in enumerate(floats)]


def _figure(figure: BuiltFigure) -> str:
    wide = figure.inches * 72 > COLUMN
    place, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
    caption = text_tex(f"{figure.title}. {figure.caption}")
    return (
        rf"\begin{{{place}}}[t]\centering\includegraphics[width={width},height=0.8\textheight,keepaspectratio]"
        rf"{{{figure.name}.pdf}}\caption{{{caption}}}\label{{fig:{figure.name.replace('_', '-')}}}\end{{{place}}}"
    )
