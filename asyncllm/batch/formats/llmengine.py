"""The batch files of Scale's LLM Engine, of both versions: whole JSON documents, which are held in memory.

Version 1 is an object of texts to continue, with one set of options for all of them:

    {"prompts": ["..."], "max_new_tokens": 100, "temperature": 0.2, "stop_sequences": ["\\n"]}
    [{"text": "...", "num_prompt_tokens": 5, "num_completion_tokens": 9, "tokens": null}]

Version 2 is a list of bodies of chats, text completions or embeddings in OpenAI's form, and its output the list of the
replies to them. Both outputs have an item for each request, in the order of the requests. One that failed is an error
object in the second version, `{"error": {"message", "type", "param", "code"}}`, where `code` is the status; the first
has no form for it, so that it is null there.

Source: https://github.com/scaleapi/llm-engine/tree/main/model-engine.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from asyncllm.batch.formats.bodies import CHAT, COMPLETION, EMBEDDINGS, READERS, write_reply
from asyncllm.batch.formats.defaults import Defaults
from asyncllm.batch.formats.lines import check_text, faulty_row, too_large
from asyncllm.batch.formats.protocol import Reading, Writer
from asyncllm.batch.rows import Outcome, Row
from asyncllm.dialect.faults import status_of, write_error
from asyncllm.dialect.served import read_completion_request
from asyncllm.errors import AsyncLLMError, InputError, InvalidRequestError
from asyncllm.types import Request, Response

__all__ = ["LLMEngineV1", "LLMEngineV2"]

T = TypeVar("T")

_JOB_FIELDS = (
    "content", "input_data_path", "output_data_path", "model_config", "data_parallelism", "max_runtime_sec", "labels",
    "priority", "tool_config",
)  # fmt: skip
_THEIRS = {"max_new_tokens": "max_tokens", "stop_sequences": "stop", "return_token_log_probs": "logprobs"}
_OURS = {ours: theirs for theirs, ours in _THEIRS.items()}
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Kind(Struct):
    messages: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET
    input: msgspec.Raw | UnsetType = UNSET

    @property
    def endpoint(self) -> str | None:
        if self.messages is not UNSET:
            return CHAT
        if self.prompt is not UNSET:
            return COMPLETION
        return None if self.input is UNSET else EMBEDDINGS


_items = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder(Any)
_text = msgspec.json.Decoder(str)
_kind = msgspec.json.Decoder(_Kind)
_BYTE = re.compile(r"\(byte (\d+)\)")
_encode = msgspec.json.Encoder().encode


class LLMEngineV1:
    """Texts to continue, with one set of options."""

    name = "llmengine-v1"
    suffixes: Sequence[str] = ()
    repeats_input = False
    has_errors_file = False

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        content = await _whole(chunks, reading.name)
        document = _decoded(_object, content, reading.name, 'an object with "prompts"')
        _refuse_job(document, reading.name)
        if "prompts" not in document:
            raise InputError(
                f'{reading.name} has no "prompts", the list of texts to continue', field="prompts", code="invalid_input"
            )
        prompts = _decoded(_items, document["prompts"], reading.name, 'a list under "prompts"')
        asked = _asked(document, Defaults(reading.options), reading.name)
        for index, prompt in enumerate(prompts):
            yield _text_row(prompt, index, asked, reading)

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer(_write_v1)


class LLMEngineV2:
    """Bodies of requests in OpenAI's form."""

    name = "llmengine-v2"
    suffixes: Sequence[str] = ()
    repeats_input = False
    has_errors_file = False

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        content = await _whole(chunks, reading.name)
        items = _decoded(_items, content, reading.name, "a list of requests")
        defaults = Defaults(reading.options)
        for index, item in enumerate(items):
            yield _body_row(bytes(item), index, reading, defaults)

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer(_write_v2)


class _Writer:
    """One array, an item a row."""

    def __init__(self, item: Callable[[Outcome], object]) -> None:
        self._item = item
        self._before = b"\n"

    def begin(self) -> bytes:
        return b"["

    def write(self, outcome: Outcome, _: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        before, self._before = self._before, b",\n"
        return before + _encode(self._item(outcome)), b""

    def end(self) -> bytes:
        return b"\n]\n"


# -- reading -----------------------------------------------------------------------------------------------------


async def _whole(chunks: AsyncIterator[bytes], name: str) -> bytes:
    content = b"".join([chunk async for chunk in chunks])
    check_text(content[:4], name)
    return content.removeprefix(b"\xef\xbb\xbf")


def _decoded(decoder: msgspec.json.Decoder[T], content: bytes | msgspec.Raw, name: str, what: str) -> T:
    try:
        return decoder.decode(content)
    except msgspec.ValidationError:
        raise InputError(f"{name} is not {what}", code="invalid_input") from None
    except _UNREADABLE as error:
        place = _BYTE.search(str(error))
        line = bytes(content).count(b"\n", 0, int(place[1])) + 1 if place else 0
        where = f"breaks off in line {line}" if line else "is cut short, or nested too deeply"
        raise InputError(f"{name} is not one JSON document: it {where}", code="invalid_json") from None


def _refuse_job(document: Mapping[str, msgspec.Raw], name: str) -> None:
    """What is posted to the service to create a batch is no input of one. Raises `InputError`."""
    field = next((field for field in _JOB_FIELDS if field in document), None)
    if field is None:
        return
    if "prompts" in document:
        reason = "an option of a batch and not of its prompts: leave it out here"
    else:
        reason = 'of what creates a batch: put the value of "content", or the file it names, into a file of its own'
    raise InputError(f"{name} has {field!r}, which is {reason}", field=field, code="invalid_input")


def _asked(document: Mapping[str, msgspec.Raw], defaults: Defaults, name: str) -> Request:
    """What all prompts are asked with. Raises `InputError`."""
    body: dict[str, Any] = {"prompt": "-"}
    for field, value in document.items():
        if field == "prompts":
            continue
        ours = _THEIRS.get(field, field)
        if ours in body:
            raise InputError(f"{name}: {field} stands beside another field that means it; give one", field=field)
        body[ours] = _decoded(_any, value, name, "JSON")
    try:
        asked = defaults.fill(read_completion_request(body))
    except InvalidRequestError as error:
        ours = error.field or "it"
        field, reason = _OURS.get(ours, ours), error.message.removeprefix(f"{ours}: ")
        raise InputError(f"{name}: {field}: {reason}", field=field, code=error.code) from None
    assert isinstance(asked, Request)
    return asked


def _text_row(prompt: msgspec.Raw, index: int, asked: Request, reading: Reading) -> Row:
    place = f"{reading.name}, prompts[{index}]"
    if len(bytes(prompt)) > reading.max_row_bytes:
        return too_large(index, place, reading.max_row_bytes)
    try:
        text = _text.decode(prompt)
    except _UNREADABLE:
        text = ""
    if not text:
        return faulty_row(index, place, "a prompt is a text that is not empty", code="invalid_request", field="prompts")
    return Row(index=index, place=place, request=msgspec.structs.replace(asked, prompt=text))


def _body_row(item: bytes, index: int, reading: Reading, defaults: Defaults) -> Row:
    place = f"{reading.name}, [{index}]"
    if len(item) > reading.max_row_bytes:
        return too_large(index, place, reading.max_row_bytes)
    try:
        endpoint = _kind.decode(item).endpoint
    except _UNREADABLE:
        endpoint = None
    if endpoint is None:
        reason = 'a request is an object with "messages", "prompt" or "input"'
        return faulty_row(index, place, reason, code="invalid_request")
    try:
        request = defaults.fill(READERS[endpoint](item, ""))
    except AsyncLLMError as error:
        return faulty_row(index, place, error.message, code=error.code or "invalid_request", field=error.field)
    return Row(index=index, place=place, request=request)


# -- writing -----------------------------------------------------------------------------------------------------


def _write_v1(outcome: Outcome) -> object:
    answer = outcome.answer
    if not isinstance(answer, Response):
        return None
    tokens = answer.logprobs
    return {
        "text": answer.text,
        "num_prompt_tokens": answer.usage.input_tokens,
        "num_completion_tokens": answer.usage.output_tokens,
        "tokens": tokens and [{"token": token.token, "log_prob": token.logprob} for token in tokens],
    }


def _write_v2(outcome: Outcome) -> object:
    if outcome.answer is not None:
        return write_reply(outcome, outcome.answer)
    if outcome.error is None:
        return None
    body = write_error(outcome.error)
    word = body["error"]["code"]
    # The status stands where OpenAI has its word, which says more than the type.
    body["error"] |= {"code": status_of(outcome.error), "type": word or body["error"]["type"]}
    return body
