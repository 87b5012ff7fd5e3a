"""The parts of a `multipart/form-data` body, found in its bytes as they come, in whatever pieces. No I/O.

What no client sends is refused: text before the first boundary, encodings of transfer, a part without a name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from asyncllm.errors import BadRequestError, InvalidRequestError

__all__ = ["Part", "PartReader", "boundary_of"]

_MAX_PARTS = 16
_MAX_TEXT_BYTES = 64 * 2**10
_PLAIN = (b"7bit", b"8bit", b"binary")
_MAX_NAME = 100


class Part(Struct, eq=False):
    """One part: a text, or a file where it has a filename."""

    name: str
    filename: str | None
    """As it was sent. It names nothing here."""
    content_type: str
    """Empty where none was sent."""
    text: bytearray
    """What came so far of a text; nothing of a file."""

    def __repr__(self) -> str:
        return f"Part({len(self.text)} bytes)"  # names and texts are private

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("bytes", len(self.text))]


def boundary_of(content_type: bytes | None) -> bytes:
    """What stands between the parts. Raises `InvalidRequestError` for a body that is no form."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise InvalidRequestError("the body is to be a form: multipart/form-data, with its boundary", field="body")
    return boundary


class PartReader:
    """Reads one body. Every method raises `InvalidRequestError`, which says what is wrong, and 413 for a large text."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        """All that have begun, in their order."""
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part: Part | None = None
        self._found: list[tuple[Part, bytes]] = []
        self._has_begun = False
        self._has_ended = False
        # What the parser says of a broken form goes into the error, and not into whatever logs the process has.
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._name,
                "on_header_value": self._value,
                "on_header_end": self._keep,
                "on_headers_finished": self._open,
                "on_part_data": self._take,
                "on_end": self._end,
            },
        )
        self._parser.logger = logging.Logger("silent", logging.CRITICAL)  # noqa: LOG001  # nobody else finds it

    def feed(self, data: bytes) -> Sequence[tuple[Part, bytes]]:
        """What came of files with `data`, in its order."""
        if not self._has_begun and data:
            self._has_begun = True
            if not data.startswith(b"-"):
                raise InvalidRequestError("the form does not begin with its boundary", field="body")
        try:
            self._parser.write(data)
        except FormParserError:  # its text may hold bytes of the form
            raise InvalidRequestError("the form is broken: it is not as its boundary says", field="body") from None
        found, self._found = self._found, []
        return found

    def end(self) -> None:
        """Nothing more comes."""
        if not self._has_ended:
            raise InvalidRequestError("the form is broken off before its last boundary", field="body")

    # -- what the parser finds

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise InvalidRequestError(f"a form has at most {_MAX_PARTS} parts", field="body")
        self._headers.clear()

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _keep(self) -> None:
        name, self._header_name = self._header_name.lower(), b""
        if name in self._headers:
            raise InvalidRequestError("a part of the form has a header twice", field="body")
        self._headers[name], self._header_value = self._header_value, b""

    def _open(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or not options.get(b"name"):
            raise InvalidRequestError("a part of the form has no name", field="body")
        name = _decoded(options[b"name"], "body", "the name of a part")
        if len(name) > _MAX_NAME:
            raise InvalidRequestError(f"the name of a part is longer than {_MAX_NAME} letters", field="body")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN:
            raise InvalidRequestError("a part is sent as it is, without an encoding of transfer", field=name)
        filename = options.get(b"filename")
        self._part = Part(
            name,
            None if filename is None else filename.decode("utf-8", "replace"),
            self._headers.get(b"content-type", b"").decode("latin-1"),
            bytearray(),
        )
        self.parts.append(self._part)

    def _take(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        assert part is not None  # data comes after headers
        if part.filename is not None:
            self._found.append((part, data[start:end]))
            return
        if len(part.text) + end - start > _MAX_TEXT_BYTES:
            raise BadRequestError(
                f"{part.name}: a text is at most {_MAX_TEXT_BYTES} bytes", status=413, code="request_too_large"
            )
        part.text += data[start:end]

    def _end(self) -> None:
        self._has_ended = True


def _decoded(data: bytes | bytearray, field: str, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{what} is not UTF-8", field=field) from None
