"""What some servers do to the pieces of an answer, undone: cut characters, repeated wholes, blocks in pieces."""

from __future__ import annotations

from typing import Any

import msgspec

from asyncllm.dialect.lenient import make_whole
from asyncllm.dialect.wire import WireChoice, WireChunk, WireFunction, WireMessage
from asyncllm.errors import ResponseValidationError
from asyncllm.events import Event, ReasoningBlockDelta, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta

__all__ = ["Blocks", "Halves", "PIECES", "Totals"]

PIECES = frozenset({"arguments", "content", "reasoning", "reasoning_content", "refusal", "text"})
"""The fields of a chunk that continue what an earlier chunk began."""


_TEXTS = (("reasoning.text", "text"), ("reasoning.summary", "summary"))
"""The types of blocks that come in pieces, and the field of each that does."""


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


class Blocks:
    """Blocks of reasoning that come in pieces, put together: a piece continues the block of its type and place.

    Source: https://openrouter.ai/docs/use-cases/reasoning-tokens, which wants the whole blocks back.
    """

    def __init__(self) -> None:
        self._open: list[ReasoningBlockDelta] = []

    def take(self, events: list[Event]) -> None:
        """Take the pieces out of `events`."""
        pieces = [event for event in events if isinstance(event, ReasoningBlockDelta)]
        if pieces:
            events[:] = [event for event in events if not isinstance(event, ReasoningBlockDelta)]
        for piece in pieces:
            before = next((one for one in reversed(self._open) if one.index == piece.index), None)
            if before is None or not _continue(before.block.data, piece.block.data):
                self._open.append(piece)

    def rest(self) -> list[Event]:
        """The blocks, whole."""
        whole: list[Event] = [*self._open]
        self._open.clear()
        return whole


def _continue(block: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Add `piece` to `block`, if it is the next piece of it. What is sealed always comes whole."""
    field = next((name for kind, name in _TEXTS if piece.get("type") == kind), None)
    if field is None or any(block.get(name) != piece.get(name) for name in ("type", "index")):
        return False
    text = f"{block.get(field) or ''}{piece.get(field) or ''}"
    block.update((name, value) for name, value in piece.items() if value is not None)
    block[field] = text
    return True
