"""All that is wrong with an input, with where it stands, in one message."""

from __future__ import annotations

from dataclasses import dataclass

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
