"""What some servers do to the pieces of an answer, undone: characters cut in two, pieces that repeat the whole."""

from __future__ import annotations

import msgspec

from asyncllm.dialect.lenient import make_whole
from asyncllm.dialect.replies import WireChoice, WireChunk, WireFunction, WireMessage
from asyncllm.errors import ResponseValidationError
from asyncllm.events import Event, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta

__all__ = ["Halves", "PIECES", "Totals"]

PIECES = frozenset({"arguments", "content", "reasoning", "reasoning_content", "refusal", "text"})
"""The fields of a chunk that continue what an earlier chunk began."""


class Halves:
    """Characters that a server cuts in two: `\\ud83d` ends one piece, and `\\ude00` begins the next one of its kind."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int | None], str] = {}  # by field, choice and tool call

    def __bool__(self) -> bool:
        return bool(self._held)

    def clear(self) -> None:
        """Forget what is held."""
        self._held.clear()

    def mend(self, chunk: WireChunk) -> None:
        """Put the second halves of earlier characters to the pieces of `chunk`, and hold back its own first ones."""
        for choice in chunk.choices or ():
            self._mend(choice, "text", choice.index)
            message = choice.delta or choice.message
            if message is not None:
                for name in ("content", "reasoning", "reasoning_content", "refusal"):
                    self._mend(message, name, choice.index)
                for call in message.tool_calls or ():
                    if call.function is not None:
                        self._mend(call.function, "arguments", choice.index, call.index)

    def rest(self) -> list[Event]:
        """U+FFFD for each character whose second half never came."""
        events: list[Event] = []
        for name, index, position in self._held:
            if name in ("content", "text"):
                events.append(TextDelta("\ufffd", index))
            elif name == "arguments":
                events.append(ToolCallDelta(position, arguments="\ufffd", index=index))
            else:
                events.append(RefusalDelta("\ufffd", index) if name == "refusal" else ReasoningDelta("\ufffd", index))
        self.clear()
        return events

    def _mend(
        self, holder: WireChoice | WireMessage | WireFunction, name: str, index: int, position: int | None = None
    ) -> None:
        text = getattr(holder, name)
        if not text or not isinstance(text, str):
            return
        text = self._held.pop((name, index, position), "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._held[name, index, position] = text[-1]
            text = text[:-1]
        setattr(holder, name, make_whole(text))


class Totals:
    """The pieces of an answer whose every chunk holds all of it so far."""

    def __init__(self) -> None:
        self._seen: dict[tuple[type[Event], int, int | str | None], str] = {}

    def shorten(self, events: list[Event]) -> None:
        """Leave of each of `events` what is new in it.

        Raises `ResponseValidationError` where one does not repeat what came before; those before it are left.
        """
        totals = events.copy()
        events.clear()
        for event in totals:
            if isinstance(event, ToolCallDelta):
                place = event.position if event.position is not None else event.id
                is_first = (ToolCallDelta, event.index, place) not in self._seen
                arguments = self._new(event, place, event.arguments)
                if arguments or is_first:
                    events.append(msgspec.structs.replace(event, arguments=arguments))
            elif isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
                text = self._new(event, None, event.text)
                if text:
                    events.append(msgspec.structs.replace(event, text=text))
            else:
                events.append(event)

    def _new(
        self, event: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta, place: int | str | None, total: str
    ) -> str:
        key = (type(event), event.index, place)
        seen = self._seen.get(key, "")
        if not total.startswith(seen):
            raise ResponseValidationError(
                "a chunk does not repeat the answer so far, as delta_mode='cumulative' says that it would; leave the "
                "option out for a server that sends the next piece alone",
                maybe_billed=True,
            )
        self._seen[key] = total
        return total[len(seen) :]
