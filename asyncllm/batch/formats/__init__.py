"""The file formats of batches, read and written.

`TABLE` has them all by name. `find_format` chooses: by the name that is given, else by what the name of the file ends
in, else by how its content begins.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, cast

import msgspec

from asyncllm.batch.formats.protocol import Format
from asyncllm.errors import ConfigError

__all__ = ["TABLE", "find_format", "find_output_format"]

TABLE: dict[str, str] = {
    "csv": "asyncllm.batch.formats.csv:Csv",
    "jsonl": "asyncllm.batch.formats.jsonl:Jsonl",
    "llmengine-v1": "asyncllm.batch.formats.llmengine:LLMEngineV1",
    "llmengine-v2": "asyncllm.batch.formats.llmengine:LLMEngineV2",
    "openai": "asyncllm.batch.formats.openai:OpenAI",
    "parquet": "asyncllm.batch.formats.parquet:Parquet",
}
"""Where each format is, loaded when it is used. `llmengine` means the version that the content is of."""

_SUFFIXES = {".csv": "csv", ".parquet": "parquet"}
_BLANK = b" \t\r\n"
_KEY = re.compile(rb'(?<!\\)"(custom_id|body|method|url|prompts|input_data_path|output_data_path)"\s*:')
_OF_REQUESTS = {"body", "method", "url"}
_OF_LLM_ENGINE = {"prompts", "input_data_path", "output_data_path"}


def find_format(name: str | None, place_name: str, first_bytes: bytes) -> Format:
    """The format of a file called `place_name` that begins with `first_bytes`, a few thousand of them if it has them.

    Where nothing of it tells, it is `jsonl`. Raises `ConfigError` for a name that no format has.
    """
    if name == "llmengine":
        name = "llmengine-v1" if _start(first_bytes)[:1] == b"{" else "llmengine-v2"
    if name is None:
        plain = place_name.lower().removesuffix(".gz")  # what is packed is read unpacked
        suffix = next((suffix for suffix in _SUFFIXES if plain.endswith(suffix)), None)
        name = _SUFFIXES[suffix] if suffix else _of_content(_start(first_bytes))
    if name not in TABLE:
        known = ", ".join(sorted({*TABLE, "llmengine"}))
        raise ConfigError(f"unknown format {name[:40]!r}; a format is one of {known}", field="format")
    module, _, kind = TABLE[name].partition(":")
    return cast("Format", getattr(importlib.import_module(module), kind)())


def find_output_format(name: str | None, place_name: str, source: Format | None) -> Format:
    """The format of an output called `place_name`, of an input in the format `source`, or of requests of a program.

    That is the format called `name`, else what the name of the output ends in, else that of the input. Raises
    `ConfigError` for a name that no format has, and for a table of what has no columns.
    """
    if name is None:
        plain = place_name.lower().removesuffix(".gz")
        name = next((table for suffix, table in _SUFFIXES.items() if plain.endswith(suffix)), None)
        if name is None and source is not None:
            is_lines = plain.endswith((".jsonl", ".ndjson"))
            name = "jsonl" if is_lines and source.repeats_input else source.name
    found = find_format(name or "openai", place_name, b"")
    if found.repeats_input and (source is None or not source.repeats_input):
        what = "requests" if source is None else f"the rows of {source.name}"
        raise ConfigError(
            f"{found.name} repeats the columns of its input, and {what} have none; give output_format='openai'",
            field="output_format",
        )
    return found


def _start(content: bytes) -> bytes:
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(_BLANK)


def _of_content(content: bytes) -> str:
    """The format of what begins with `content`, which may be cut anywhere."""
    if content[:4] == b"PAR1":
        return "parquet"
    if content[:1] == b"[":
        return "llmengine-v2"
    keys = _keys(content.partition(b"\n")[0]) or {match[1].decode() for match in _KEY.finditer(content)}
    if "custom_id" in keys and keys & _OF_REQUESTS:
        return "openai"
    return "llmengine-v1" if keys & _OF_LLM_ENGINE else "jsonl"


def _keys(line: bytes) -> set[str]:
    """The fields of the object in `line`, or none if it is no whole object."""
    try:
        return set(msgspec.json.decode(line, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
