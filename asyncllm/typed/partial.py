"""JSON that is still being written: what can be believed of it already.

A `Completer` reads a document in pieces, each character once, and can say at any moment how the document so far is
closed: strings are ended where they stand, open lists and objects are closed, and whatever could still turn out to be
something else is left out: a number whose digits may go on, half an escape, a key without its value. So each value is
what the finished document will hold, only less of it: a text is a prefix, a list has the first items, an object the
first keys.

What is no JSON ends the reading: the value stays as it was before.
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

__all__ = ["Completer", "Growing"]

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')
_NUMBER_PART = re.compile(r"[-+.0-9eE]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u(?:(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
# A character outside the first plane is two escapes, and half of it is nothing.
_HALF_ESCAPE = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,4}"
    r"|[dD][89abAB][0-9a-fA-F]{2}\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]{0,2})?)?)?))?"
)
_WORDS = ("true", "false", "null")


class Completer:
    """Reads one JSON document in pieces; `text()` is the document so far, closed."""

    __slots__ = ("_closers", "_expects", "_kept", "_length", "_pieces", "_token")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._kept = 0
        """Characters that stay when the rest is closed."""
        self._closers: list[str] = []
        self._expects = "value"
        """What comes next: `value`, `item` or `key` (or the end of a list or an object that is empty), `name` (a key
        after a comma), `colon`, `comma`; inside of one: `string`, `named` (a key), `number`, `word`; and `nothing`
        after the end or after what is no JSON."""
        self._token = ""
        """A number, a word or half an escape under way."""

    def feed(self, text: str) -> None:
        """Take the next piece. Linear: nothing is read twice."""
        if self._expects == "nothing" or not text:
            return
        self._pieces.append(text)
        start = 0
        while start < len(text) and self._expects != "nothing":
            start = self._step(text, start)
        self._length += len(text)

    def text(self) -> str | None:
        """The document so far, closed; `None` while there is nothing of it."""
        if not self._kept:
            return None
        whole = "".join(self._pieces)
        self._pieces = [whole]
        end = '"' if self._is_inside_text else ""
        return whole[: self._kept] + end + "".join(reversed(self._closers))

    @property
    def _is_inside_text(self) -> bool:
        return self._expects == "string" or (self._expects == "nothing" and self._token == '"')  # noqa: S105  # a part of JSON

    def _step(self, text: str, start: int) -> int:
        """Read on from `start`, and return where that ended."""
        match self._expects:
            case "string" | "named":
                return self._in_string(text, start)
            case "number":
                return self._in_number(text, start)
            case "word":
                return self._in_word(text, start)
            case _:
                space = _SPACE.match(text, start)
                assert space is not None  # it matches nothing, too
                start = space.end()
                if start < len(text):
                    self._structure(text[start], self._length + start)
                return start + (self._expects != "number")

    def _structure(self, mark: str, place: int) -> None:
        expects = self._expects
        if expects == "comma":
            self._after_value(mark, place)
        elif expects == "colon":
            self._expects = "value" if mark == ":" else "nothing"
        elif expects in ("key", "name"):
            if mark == '"':
                self._expects = "named"
            elif mark == "}" and expects == "key":
                self._close(mark, place)
            else:
                self._expects = "nothing"
        elif mark == "]" and expects == "item":
            self._close(mark, place)
        else:
            self._value(mark, place)

    def _value(self, mark: str, place: int) -> None:
        """A value begins with `mark`."""
        if mark == '"':
            self._kept = place + 1
            self._expects = "string"
        elif mark in "{[":
            self._kept = place + 1
            self._closers.append("}" if mark == "{" else "]")
            self._expects = "key" if mark == "{" else "item"
        elif mark in "-0123456789":
            self._expects = "number"  # which reads the mark again
        elif any(word[0] == mark for word in _WORDS):
            self._token = mark
            self._expects = "word"
        else:
            self._expects = "nothing"

    def _after_value(self, mark: str, place: int) -> None:
        if mark == "," and self._closers:
            self._expects = "name" if self._closers[-1] == "}" else "value"
        else:
            self._close(mark, place)

    def _close(self, mark: str, place: int) -> None:
        if self._closers and self._closers[-1] == mark:
            self._closers.pop()
            self._end_value(place + 1)
        else:
            self._expects = "nothing"

    def _end_value(self, place: int) -> None:
        self._kept = place
        self._token = ""
        self._expects = "comma" if self._closers else "nothing"

    def _in_string(self, text: str, start: int) -> int:
        is_key = self._expects == "named"
        if not self._token:
            plain = _PLAIN.match(text, start)
            assert plain is not None  # it matches nothing, too
            start = plain.end()
            if not is_key:
                self._kept = self._length + start
            if start == len(text):
                return start
        mark = text[start]
        if mark == '"' and not self._token:
            if is_key:
                self._expects = "colon"
            else:
                self._end_value(self._length + start + 1)
            return start + 1
        self._token += mark
        if _ESCAPE.fullmatch(self._token):
            self._token = ""
            if not is_key:
                self._kept = self._length + start + 1
        elif not _HALF_ESCAPE.fullmatch(self._token):
            self._expects = "nothing"
            self._token = "" if is_key else '"'  # the text before it stays
        return start + 1

    def _in_number(self, text: str, start: int) -> int:
        part = _NUMBER_PART.match(text, start)
        assert part is not None  # it matches nothing, too
        self._token += part[0]
        if part.end() < len(text):
            if _NUMBER.fullmatch(self._token):
                self._end_value(self._length + part.end())
            else:
                self._expects = "nothing"
        return part.end()

    def _in_word(self, text: str, start: int) -> int:
        self._token += text[start]
        if self._token in _WORDS:
            self._end_value(self._length + start + 1)
        elif not any(word.startswith(self._token) for word in _WORDS):
            self._expects = "nothing"
        return start + 1


class Growing:
    """The JSON in an answer under way, as plain Python data.

    What stands before the first opening bracket, such as a code fence, is passed over. `unwrap` gives what stands under
    `value` of an object.
    """

    __slots__ = ("_completer", "_opening", "_unwrap", "_value")

    def __init__(self, *, opening: str = "{[", unwrap: bool = False) -> None:
        self._completer: Completer | None = None
        self._opening = re.compile(f"[{re.escape(opening)}]")
        self._unwrap = unwrap
        self._value: Any = None

    def feed(self, text: str) -> None:
        """Take the next piece of the answer."""
        if self._completer is None:
            bracket = self._opening.search(text)
            if bracket is None:
                return
            text = text[bracket.start() :]
            self._completer = Completer()
        self._completer.feed(text)

    def value(self) -> Any:
        """What there is, decoded anew; `None` while there is nothing. Takes time in proportion to its size."""
        text = self._completer.text() if self._completer is not None else None
        if text is None:
            return None
        try:
            value: Any = msgspec.json.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):  # a number or a depth that nobody takes
            return self._value
        self._value = cast("dict[str, Any]", value).get("value") if self._unwrap and isinstance(value, dict) else value
        return self._value
