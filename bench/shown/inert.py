"""Text that comes from files (labels, titles, names, reasons, tracebacks) is shown, never interpreted: not
by a terminal, a spreadsheet, or what renders Markdown.
"""

from __future__ import annotations

import re

# But line break and tab: C0, DEL, C1, line and paragraph separators, what changes the direction of
# writing, and halves of characters, which no stream takes.
_CONTROLS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*_|<>\[\]&~]")
_FORMULA = ("=", "+", "-", "@", "\t")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def printable(text: object) -> str:
    """With control characters as Python writes them: ESC is `\\x1b`. Safe on a terminal and in a log."""
    return _CONTROLS.sub(lambda found: _written(found[0]), str(text))


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(text: object) -> str:
    """Without anything that is not shown, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def markdown(text: object) -> str:
    """As text on one line of Markdown: no link, image, code, emphasis, element or cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(str(text).replace("\n", " ")))


def csv_cell(text: str) -> str:
    """A cell that a spreadsheet takes for text, or for the number that it is, but for no formula."""
    shown = printable(text)
    formula = shown.startswith(_FORMULA) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if formula else shown
