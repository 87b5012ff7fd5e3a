"""Rows of columns: what a row asks, and what is written beside it. JSONL, CSV and Parquet have this in common.

**What a row asks.** With a template, the columns are what the template takes, and nothing else: a column `model` or
`seed` is the row's own data. Without one, a column `prompt` holds the text, or a column `messages` the conversation in
OpenAI's form, and columns that are named like an option of a call are that option, null or an empty cell being none:
`model`, `system`, `tools`, `tool_choice`, `parallel_tool_calls`, `extra` and the fields of `Sampling`. All other
columns are data. A row's own option goes over that of the batch.

What an output has no place for is refused: several answers (`n`) and log probabilities.

**What is written.** The columns of the input as they were, then `text`, `error`, `finish_reason`, `input_tokens`,
`output_tokens` and `message`: the whole message, where it is more than its text (calls of tools, reasoning, a refusal).
One whose name is taken is called `asyncllm_text` and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import msgspec

from asyncllm.batch.formats.lines import faulty_row
from asyncllm.batch.formats.protocol import Reading
from asyncllm.batch.rows import Outcome, Row
from asyncllm.batch.template import Template, check_columns
from asyncllm.calls import CallOptions, Prompt, chat_request, output_of
from asyncllm.errors import AsyncLLMError, InputError, InvalidRequestError, UnsupportedError, WriteError
from asyncllm.types import Message, Request, Response, Sampling, Timeouts

__all__ = ["Asking", "RESULTS", "cell_text", "check_known", "error_object", "error_text", "result_names", "results"]

RESULTS = ("text", "error", "finish_reason", "input_tokens", "output_tokens", "message")

_TEXTS = {"model", "system", "stop", "tool_choice", "reasoning_effort"}
_OPTIONS = {*Sampling.__struct_fields__, *_TEXTS, "tools", "parallel_tool_calls", "extra"}
_NO_COLUMNS = {"sampling", "constraint", "output_type", "repairs", "timeouts", "idempotency_key"}
_NOT_OF_BATCHES = ("repairs", "idempotency_key")
_WORDS = {"true": True, "false": False}
_ERROR_FACTS = ("status", "code", "param", "field", "request_id")
_SHOWN = 20


class Asking:
    """Makes the request of each row of one input.

    Raises `InvalidRequestError` for a template or options that cannot be right.
    """

    def __init__(self, reading: Reading, *, cells_are_text: bool = False) -> None:
        """`cells_are_text` says that numbers, lists and so on are written as text, as in CSV."""
        template = reading.template
        self._template = template if template is None or isinstance(template, Template) else Template(template)
        self._name = reading.name
        self._options: dict[str, Any] = dict(reading.options)
        self._cells_are_text = cells_are_text
        for name in _NOT_OF_BATCHES:
            if name in self._options:
                raise InvalidRequestError(f"a batch takes no {name}", field=name)
        self._output = output_of(cast("CallOptions", self._options))
        self._request("-", self._options)

    def check_header(self, columns: Iterable[str]) -> None:
        """Raise `InputError` where no row with these columns can be asked."""
        names = tuple(columns)
        if self._template is not None:
            try:
                check_columns(self._template.columns, names)
            except InvalidRequestError as error:
                raise InputError(f"{self._name}: {error.message}", field="template") from None
        elif "prompt" not in names and "messages" not in names:
            shown = ", ".join(repr(name[:_SHOWN]) for name in names[:_SHOWN])
            raise InputError(
                f"{self._name} has neither a column 'prompt' nor a column 'messages', and there is no template; give "
                f"one, as in template='Translate: {{text}}'. Its columns: {shown}",
                field="template",
            )

    def row(self, index: int, place: str, fields: Mapping[str, Any]) -> Row:
        """The row of these columns; one that asks nothing that can be asked has an error."""
        try:
            request = self._asked(fields)
        except InvalidRequestError as error:
            return self.faulty(index, place, fields, error.message, field=error.field)
        return Row(index=index, place=place, request=request, fields=fields)

    def faulty(
        self,
        index: int,
        place: str,
        fields: Mapping[str, Any],
        reason: str,
        *,
        code: str = "invalid_row",
        field: str | None = None,
    ) -> Row:
        """A row with an error, which keeps its columns."""
        return msgspec.structs.replace(faulty_row(index, place, reason, code=code, field=field), fields=fields)

    def _asked(self, fields: Mapping[str, Any]) -> Request:
        if self._template is not None:
            return self._request(self._template.fill(fields), self._options)
        own: dict[str, Any] = {}
        for name in fields.keys() & _OPTIONS:
            value = self._option(name, fields[name])
            if value is not None:
                own[name] = value
        for name in fields.keys() & _NO_COLUMNS:
            raise InvalidRequestError(
                f"a column cannot be the option {name}: rename it, or use a template, beside which columns are data",
                field=name,
            )
        return self._request(self._prompt(fields), {**self._options, **own} if own else self._options)

    def _prompt(self, fields: Mapping[str, Any]) -> Prompt:
        prompt, messages = fields.get("prompt"), fields.get("messages")
        if self._is_empty(messages):
            if self._is_empty(prompt):
                raise InvalidRequestError(
                    "it has neither a prompt nor messages; give it one, or use a template", field="prompt"
                )
            if not isinstance(prompt, str):
                raise InvalidRequestError("prompt is a text; a conversation goes into messages", field="prompt")
            return prompt
        if not self._is_empty(prompt):
            raise InvalidRequestError("it has a prompt and messages; leave one of them out", field="messages")
        if self._cells_are_text and isinstance(messages, str):
            messages = _json("messages", messages)
        if not isinstance(messages, list):
            raise InvalidRequestError("messages is a list of messages in OpenAI's form", field="messages")
        return cast("list[Any]", messages)

    def _is_empty(self, value: object) -> bool:
        return value is None or (self._cells_are_text and value == "")

    def _option(self, name: str, value: Any) -> Any:
        if self._is_empty(value) or value != value:  # noqa: PLR0124  # NaN, which tables write for nothing
            return None
        if self._cells_are_text and isinstance(value, str) and name not in _TEXTS:
            value = _json(name, value)
        if name == "model" and not isinstance(value, str):
            raise InvalidRequestError("the model of a row is a text", field="model")
        # Tables with gaps in a column of whole numbers have made them fractions.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _request(self, prompt: Prompt, options: Mapping[str, Any]) -> Request:
        _check_room(options)
        model = options.get("model", "")
        request = chat_request(
            prompt, cast("CallOptions", options), stream=False, timeouts=Timeouts(), output=self._output
        )
        # Of several models, the one who asks chooses; and a key made by chance would tell equal rows apart.
        return msgspec.structs.replace(request, model=model if isinstance(model, str) else "", idempotency_key=None)


def result_names(columns: Iterable[str]) -> dict[str, str]:
    """What each of `RESULTS` is called beside `columns`."""
    taken = set(columns)
    names: dict[str, str] = {}
    for result in RESULTS:
        name = result
        while name in taken:
            name = f"asyncllm_{name}"
        names[result] = name
        taken.add(name)
    return names


def results(outcome: Outcome) -> dict[str, Any]:
    """The values of `RESULTS`, the error as it is. Raises `UnsupportedError` for embeddings."""
    answer = outcome.answer
    if answer is None:
        return {**dict.fromkeys(RESULTS), "error": outcome.error}
    if not isinstance(answer, Response):
        raise UnsupportedError("a table has no place for embeddings; write them in the format openai", field="format")
    return {
        "text": answer.text,
        "error": None,
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
        "message": _whole(answer.choices[0].message) if answer.choices else None,
    }


def check_known(outcome: Outcome, fields: Mapping[str, Any], columns: Collection[str]) -> None:
    """Raise `WriteError` for a row with a column that is not among `columns`, those of the first row."""
    for name in fields:
        if name not in columns:
            raise WriteError(
                f"row {outcome.index} has a column {name[:_SHOWN]!r}, which the first row has not; where rows have "
                "columns of their own, write jsonl"
            )


def error_text(error: AsyncLLMError | None) -> str | None:
    """An error in one cell."""
    return None if error is None else f"{type(error).__name__}: {error}"


def error_object(error: AsyncLLMError | None) -> dict[str, Any] | None:
    """An error as JSON."""
    if error is None:
        return None
    facts = {name: value for name in _ERROR_FACTS if (value := getattr(error, name)) is not None}
    return {"type": type(error).__name__, "message": error.message, **facts}


def cell_text(value: Any) -> str | None:
    """A value as the text of a cell: what is not text as JSON, and nothing for null."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _whole(message: Message) -> dict[str, Any] | None:
    """A message in OpenAI's form, where it is more than its text."""
    more: dict[str, Any] = {}
    if message.reasoning:
        more["reasoning_content"] = message.reasoning
    if message.refusal:
        more["refusal"] = message.refusal
    if message.tool_calls:
        more["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return {"role": message.role, "content": message.text, **more} if more else None


def _json(name: str, text: str) -> Any:
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequestError(f"the cell of {name} is no JSON", field=name) from None


def _check_room(options: Mapping[str, Any]) -> None:
    sampling = options.get("sampling")
    for name in ("n", "logprobs", "top_logprobs"):
        value = options.get(name, getattr(sampling, name, msgspec.UNSET))
        if value is not msgspec.UNSET and value is not False and not (name == "n" and value == 1):
            raise InvalidRequestError(
                f"the output has no place for what {name} asks for; leave it out, or use the format openai", field=name
            )
