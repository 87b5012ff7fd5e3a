"""Forms with files in them: fields in, one `multipart/form-data` body out.

Source: RFC 7578, and the WHATWG's algorithm for how names are written (https://html.spec.whatwg.org, section
"multipart/form-data").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from asyncllm.errors import InvalidRequestError
from asyncllm.media import MediaFile

__all__ = ["encode_form", "form_texts", "option_fields"]

_ESCAPES = {ord("\r"): "%0D", ord("\n"): "%0A", ord('"'): "%22", 0: "%00"}
_MARK = "asyncllm-"


def encode_form(
    fields: Sequence[tuple[str, str | MediaFile]], *, boundary: Callable[[], str] | None = None
) -> tuple[str, bytes]:
    """The content type and the body of a form, its fields in the order given.

    `boundary` makes candidates for what parts the fields, by default random ones. One that occurs in a field is not
    taken.

    Raises `InvalidRequestError` for a text that holds half of a surrogate pair.
    """
    make = boundary or (lambda: _MARK + os.urandom(16).hex())
    contents = [value.data if isinstance(value, MediaFile) else _content(name, value) for name, value in fields]
    mark = make()
    while any(mark.encode() in content for content in contents):
        mark = make()
    line = f"--{mark}".encode()
    pieces: list[bytes] = []
    for (name, value), content in zip(fields, contents, strict=True):
        head = f'Content-Disposition: form-data; name="{_escaped(name)}"'
        if isinstance(value, MediaFile):
            head += f'; filename="{_escaped(value.name)}"\r\nContent-Type: {value.media_type}'
        pieces += (line, b"\r\n", _utf8(head), b"\r\n\r\n", content, b"\r\n")
    pieces += (line, b"--\r\n")
    return f"multipart/form-data; boundary={mark}", b"".join(pieces)


def form_texts(body: bytes) -> list[tuple[str, str]] | None:
    """Names and texts of a form that `encode_form` has written, without its files; `None` for any other body."""
    line, _, _ = body[:200].partition(b"\r\n")
    if not line.startswith(b"--" + _MARK.encode()):
        return None
    texts: list[tuple[str, str]] = []
    for part in body.split(line)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if b'"; filename="' not in head:
            name = head.partition(b'; name="')[2][:-1]
            texts.append((name.decode("utf-8", "replace"), content[:-2].decode("utf-8", "replace")))
    return texts


def option_fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """An option as the fields of a form: `name[]` for each item of a list, `name[key]` for each of a dict.

    Numbers and flags are written as in JSON; what is `None` is left out.
    """
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from option_fields(f"{name}[{key}]", item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from option_fields(f"{name}[]", item)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif value is not None:
        yield name, str(value)


def _escaped(name: str) -> str:
    return name.translate(_ESCAPES)


def _content(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"{name[:40]} holds half of a surrogate pair, which is no character and has no UTF-8", field=name[:100]
        ) from None


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # the name of a file may be of no encoding
