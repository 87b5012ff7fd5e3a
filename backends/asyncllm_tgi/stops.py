"""An answer that ends before its first stop text, made of one that may go on after it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Cut"]


class Cut:
    """Takes a text in pieces and gives it back up to the first of `stops`: the one that is complete first.

    What may be the beginning of a stop text is held back until the next piece decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        """Whether a stop text has come; nothing is given back from there on."""
        self._stops = stops
        self._held: str = ""

    def feed(self, text: str) -> str:
        """What `text` makes certain, which may be nothing."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        places = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)[1]]
        kept = max(_overlap(text, stop) for stop in self._stops)
        split = len(text) - kept
        self._held = text[split:]
        return text[:split]

    def close(self) -> str:
        """What was held back and turns out to be text."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
