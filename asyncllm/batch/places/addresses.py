"""From what a user writes to the place it means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from asyncllm.batch.places.gzipped import GzippedPlace
from asyncllm.batch.places.local import LocalPlace
from asyncllm.batch.places.objects import SCHEMES, object_place
from asyncllm.batch.places.protocol import Place
from asyncllm.batch.places.standard import StandardPlace
from asyncllm.errors import ConfigError

__all__ = ["place_of"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def place_of(location: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None) -> Place:
    """The place that `location` names. Nothing is opened.

    `location` is a path, `-` for the standard input or output, or an object: `s3://bucket/key`, `gs://bucket/key`,
    `az://container/key`. What ends in `.gz` is unpacked and packed on the way. `options` are for object stores,
    see `object_place`; other places have none, so that one set of options does for an input and an output.

    Raises `ConfigError` for an address that is none of these, or for options that its store does not take.
    """
    name = os.fspath(location)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError("a place is a path, - or an address such as s3://bucket/key", field="location")
    scheme = _SCHEME.match(name)
    if scheme is not None and scheme[1].lower() in SCHEMES:
        place: Place = object_place(name, dict(options or {}))
    elif scheme is not None:
        raise ConfigError(
            f"{scheme[1]}:// is no place that can be read and written: give a path, - for standard input or output, or "
            f"an address with {', '.join(f'{known}://' for known in SCHEMES)}",
            field="location",
        )
    elif name == "-":
        place = StandardPlace()
    else:
        place = LocalPlace(name)
    return GzippedPlace(place) if name.endswith(".gz") else place
