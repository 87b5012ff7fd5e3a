"""Bounds of fields that routes have in common, as their types say them for the server's description.

What JSON schema has a word for and msgspec has none is looked at by whoever takes the field.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = ["Bytes", "Filled", "No", "words"]

Filled = Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": r"\S"})]
"""A text that is more than blanks."""
Bytes = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
"""A file in a form, or a reply that is no text."""
No = Annotated[bool, Meta(extra_json_schema={"const": False})]
"""What cannot be had here: that it is not wanted may be said."""


def words(*known: str) -> Meta:
    """A text that is one of these. Whoever takes it refuses any other, and says what there is."""
    return Meta(extra_json_schema={"enum": list(known)})
