"""All that is wrong with an input, with where it stands, in one message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str, ...]
"""Where a value stands in a config, e.g. ("objectives", "video.order", "weight")."""


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with the user's input: where, and what to do about it."""

    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.message}" if self.path else self.message


class Mistakes(ValueError):
    """Everything wrong with the user's input, at once."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = list(dict.fromkeys(mistakes))
        super().__init__("\n".join(f"  {m}" for m in self.mistakes))


def cut(text: str, most: int = 100) -> str:
    """As much of a text as a message shows of it, and so that every terminal takes it."""
    some = text[:most].encode(errors="backslashreplace").decode()
    return some if len(text) <= most else f"{some}... ({len(text):,} characters)"


def shown(value: Any) -> str:
    """A wrong value, as a message quotes it."""
    return cut(repr(value))
