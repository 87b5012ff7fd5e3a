"""An answer as a value of a Python type: the schema that asks for it, the words that do, and the reading of it.

The schema has an object at its root, because many services take nothing else: the value of any other type stands
under `value` there, and nobody above sees that.

How JSON is found in an answer that holds more than JSON, each tried in turn until one fits the type: the whole answer;
each block between code fences, the last one first; what stands from the first `{` to the last `}`; the same with `[`
and `]`. An answer that thinks aloud, closed by `</think>`, is read from there on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

from asyncllm.errors import ResponseValidationError
from asyncllm.typed.partial import Growing
from asyncllm.typed.schemas import schema_of, strict_form
from asyncllm.types import JsonSchema, Response

__all__ = ["Output"]

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_PLACE = re.compile(r" - at (?:`key` in )?`\$[^`]*`$")
_THOUGHT_ENDS = "</think>"


class Output:
    """What `output_type` asks for."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    @cached_property
    def _own_schema(self) -> dict[str, Any]:
        return schema_of(self._kind, field="output_type")

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of the answer, an object. Raises `InvalidRequestError` for a type that has none."""
        if not self.is_wrapped:
            return self._own_schema
        schema = dict(self._own_schema)
        definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
        wrapped = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
        return {**wrapped, "additionalProperties": False, **definitions}

    @property
    def is_wrapped(self) -> bool:
        """Whether the value stands under `value` of an object."""
        return self._own_schema.get("type") != "object"

    @property
    def constraint(self) -> JsonSchema:
        """What holds a backend to the schema: in strict mode where the schema has a form for it that means the same."""
        strict = strict_form(self.schema)
        return JsonSchema(
            strict or self.schema,
            name=re.sub(r"[^A-Za-z0-9_-]", "_", self._name)[:64],
            strict=True if strict else msgspec.UNSET,
            instruction=self.instruction,
        )

    @property
    def instruction(self) -> str:
        """The schema in words."""
        schema = msgspec.json.encode(self.schema).decode()
        return (
            "Answer with one JSON object that fits the JSON schema below, and with nothing else: no explanation, no "
            f"code fence.\n{schema}"
        )

    def repair(self, response: Response) -> str:
        """What tells the model that gave `response` to try again: what is wrong with it, and what was asked for."""
        try:
            self._read(response.text)
        except msgspec.DecodeError as error:
            return f"Your answer could not be read: {error}.\n{self.instruction}"
        raise AssertionError("an answer that can be read needs no repair")

    def growing(self) -> Growing:
        """Reads the answer while it is made."""
        return Growing(opening="{", unwrap=self.is_wrapped)

    def parse(self, response: Response) -> Response:
        """`response` with `parsed` filled; an answer that asks for tools or refuses stays as it is.

        Raises `ResponseValidationError`, with `output_type` as its `field` and the answer as its `partial`.
        """
        if response.tool_calls or (response.refusal and not response.text):
            return response
        try:
            return msgspec.structs.replace(response, parsed=self._read(response.text))
        except msgspec.DecodeError as error:
            # A validation error names the place; any other may quote the answer.
            is_json = isinstance(error, msgspec.ValidationError)
            reason = f": {_unquoted(error)}" if is_json else " (it is not whole JSON)"
            raise ResponseValidationError(
                f"the answer is not of the type {self._told}{reason}; finish_reason is {response.finish_reason}",
                field="output_type",
                partial=response,
                maybe_billed=True,
            ) from None

    def _read(self, text: str) -> Any:
        """The value in `text`. Raises `msgspec.DecodeError`, which may quote the text."""
        error = msgspec.DecodeError("it is empty")
        for number, candidate in enumerate(_candidates(text)):
            try:
                return self._decode(candidate)
            except msgspec.DecodeError as misfit:
                # What is wrong with JSON says more than that something is no JSON.
                if number == 0 or isinstance(misfit, msgspec.ValidationError):
                    error = misfit
            except (RecursionError, UnicodeEncodeError):
                error = msgspec.DecodeError("it is nested too deep, or no text")
        raise error

    def _decode(self, text: str) -> Any:
        if not self.is_wrapped:
            return msgspec.json.decode(text, type=self._kind)
        misfit: msgspec.ValidationError | None = None
        try:
            whole = msgspec.json.decode(text)
            if isinstance(whole, dict) and whole.keys() == {"value"}:
                return msgspec.json.decode(text, type=dict[str, self._kind])["value"]  # type: ignore[name-defined]
        except msgspec.ValidationError as error:
            misfit = error
        try:
            return msgspec.json.decode(
                text, type=self._kind
            )  # some answer with the value alone, which is what was meant
        except msgspec.ValidationError:
            if misfit is None:
                raise
            raise misfit from misfit.__cause__

    @property
    def _told(self) -> str:
        return self._kind.__name__ if isinstance(self._kind, type) else str(self._kind).replace("typing.", "")[:100]

    @property
    def _name(self) -> str:
        return getattr(self._kind, "__name__", "answer")


def _candidates(text: str) -> Iterator[str]:
    """The texts in which the value may be; see the top of this file."""
    text = text.rpartition(_THOUGHT_ENDS)[2].strip()
    if not text:
        return
    yield text
    yield from reversed(_FENCED.findall(text))
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing) + 1
        if 0 <= start < end and end - start < len(text):
            yield text[start:end]


def _unquoted(error: msgspec.DecodeError) -> str:
    """A validation error without what it quotes: values stand in quotes, names of unknown fields in backticks.

    What a type's own check says, such as its `__post_init__`, may quote anything.
    """
    reason = str(error)
    place = _PLACE.search(reason)
    what = reason[: place.start()] if place else reason
    if error.__cause__ is not None:
        what = "a check of its own refuses it"
    what = re.split("['\"]", what, maxsplit=1)[0].rstrip()
    what = what.partition("unknown field")[0] + "unknown field" if "unknown field" in what else what
    return what + (place[0] if place else "")
