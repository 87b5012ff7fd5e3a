"""A Text Generation Inference server that repeats what it is told, token by token, and the words that it says it in.

Built from the OpenAPI document of TGI 2.4.1 and its router: `data:` without a space, keep-alives that are bare colons,
stop texts that stay in the answer, errors as `{"error", "error_type"}` under whatever status.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncllm.testing import Chunk, Op, SeenRequest, Status, openai_chunks, openai_reply
from asyncllm.types import ToolCall, Usage

__all__ = ["INFO", "TGIDialect", "answer", "event", "failed", "generated", "served", "streamed", "tgi", "token"]

INFO: Mapping[str, Any] = {
    "model_id": "some-model",
    "model_sha": None,
    "model_pipeline_tag": "text-generation",
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_input_tokens": 1000,
    "max_total_tokens": 2000,
    "validation_workers": 2,
    "max_client_batch_size": 4,
    "router": "text-generation-router",
    "version": "2.4.1",
    "sha": None,
    "docker_label": None,
}
END = "</s>"


def event(document: object) -> bytes:
    """One event, as TGI's router writes it."""
    return b"data:" + msgspec.json.encode(document) + b"\n\n"


def token(text: str, *, special: bool = False, logprob: float | None = -0.5, number: int = 7) -> dict[str, Any]:
    """A token of an answer."""
    return {"id": number, "text": text, "logprob": logprob, "special": special}


def generated(
    text: str, *, reason: str | None = "eos_token", count: int | None = 1, length: int | None = 3, last: str = END
) -> dict[str, Any]:
    """The last event of a stream."""
    details = {"finish_reason": reason, "generated_tokens": count, "input_length": length, "seed": None}
    return {"index": 9, "token": token(last, special=last == END), "generated_text": text, "details": details}


def answer(
    text: str, *, reason: str = "eos_token", tokens: Sequence[Mapping[str, Any]] = (), count: int = 1, **details: Any
) -> dict[str, Any]:
    """A plain reply."""
    told = {"finish_reason": reason, "generated_tokens": count, "seed": None, "prefill": [], "tokens": tokens}
    return {"generated_text": text, "details": {**told, **details}}


def streamed(*events: bytes) -> list[Op]:
    """A reply of `events`, a chunk each, with a keep-alive before them."""
    headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Transfer-Encoding": "chunked"}
    return [Status(200, headers, None), Chunk(b":\n\n"), *map(Chunk, events), Chunk()]


def failed(status: int, kind: str, text: str = "it broke") -> list[Op]:
    """An error reply."""
    return [Status(status, body=msgspec.json.encode({"error": text, "error_type": kind}))]


def served(document: object, **headers: str) -> list[Op]:
    """A reply of JSON."""
    return [
        Status(200, {name.replace("_", "-"): value for name, value in headers.items()}, msgspec.json.encode(document))
    ]


def tgi(request: SeenRequest) -> Sequence[Op]:
    """What a server answers whose model says what it was told."""
    return _ROUTES[request.path](request)


def _count(text: str) -> list[dict[str, Any]]:
    return [
        {"id": number, "text": found[0], "start": found.start(), "stop": found.end()}
        for number, found in enumerate(re.finditer(r"\s*\S+|\s+$", text))
    ]


def _pieces(asked: Mapping[str, Any]) -> tuple[list[str], str]:
    """The tokens of an answer and why it ended, as TGI comes to it: by looking for a stop after each token."""
    text = asked["inputs"]
    parameters = asked.get("parameters", {})
    grammar = parameters.get("grammar")
    if grammar is not None:
        text = '{"answer": true}' if grammar["type"] == "json" else "yes"
    said: list[str] = []
    for piece in (one["text"] for one in _count(text)):
        said.append(piece)
        if any("".join(said).endswith(stop) for stop in parameters.get("stop", ())):
            return said, "stop_sequence"
        if len(said) == parameters.get("max_new_tokens", 100):
            return said, "length"
    return said, "eos_token"


def _tops(asked: Mapping[str, Any], piece: str) -> list[dict[str, Any]]:
    return [token(piece)] * (asked.get("parameters", {}).get("top_n_tokens") or 0)


def _generate(request: SeenRequest) -> Sequence[Op]:
    asked = request.json()
    said, reason = _pieces(asked)
    text = "".join(said)
    head = asked["inputs"] if asked["parameters"].get("return_full_text") else ""
    tops = [_tops(asked, piece) for piece in said]
    document = answer(
        head + text, reason=reason, tokens=[token(piece) for piece in said], count=len(said), top_tokens=tops
    )
    length = len(_count(asked["inputs"]))
    return served(document, x_prompt_tokens=str(length), x_generated_tokens=str(len(said)))


def _generate_stream(request: SeenRequest) -> Sequence[Op]:
    asked = request.json()
    said, reason = _pieces(asked)
    text = "".join(said)
    events = [
        event({"index": at, "token": token(piece), "top_tokens": _tops(asked, piece), "generated_text": None})
        for at, piece in enumerate(said[:-1], 1)
    ]
    last = said[-1] if said else END
    length = len(_count(asked["inputs"]))
    end = generated(text, reason=reason, count=len(said), length=length, last=last)
    return streamed(*events, event({**end, "top_tokens": _tops(asked, last)}))


def _chat(request: SeenRequest) -> Sequence[Op]:
    asked = request.json()
    prompt = _templated(asked["messages"][-1:])
    parameters = {"max_new_tokens": asked.get("max_tokens", 100), "stop": asked.get("stop") or ()}
    if "response_format" in asked:
        parameters["grammar"] = asked["response_format"]
    said, reason = _pieces({"inputs": prompt, "parameters": parameters})
    usage = Usage(input_tokens=len(_count(_templated(asked["messages"]))), output_tokens=len(said))
    finish = "length" if reason == "length" else "stop"
    if not asked.get("stream"):
        body = openai_reply("".join(said), finish=finish, usage=usage, model="some-model")
        return [Status(body=_with_logprobs(asked, body))]
    chunks = openai_chunks(said, finish=finish, usage=usage, model="some-model")
    return streamed(*(b"data: " + _with_logprobs(asked, chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n")


def _templated(messages: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        for content in (message["content"] for message in messages)
    )


def _with_logprobs(asked: Mapping[str, Any], document: bytes) -> bytes:
    reply = msgspec.json.decode(document)
    for choice in reply["choices"]:
        text = choice.get("message", choice.get("delta", {})).get("content")
        if asked.get("logprobs") and text:
            tops = [{"token": text, "logprob": -0.5}] * asked.get("top_logprobs", 0)
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": tops}]}
    return msgspec.json.encode(reply)


def _chat_tokenize(request: SeenRequest) -> Sequence[Op]:
    text = _templated(request.json()["messages"])
    return served({"tokenize_response": _count(text), "templated_text": text})


_ROUTES: Mapping[str, Callable[[SeenRequest], Sequence[Op]]] = {
    "/generate": _generate,
    "/generate_stream": _generate_stream,
    "/v1/chat/completions": _chat,
    "/tokenize": lambda request: served(_count(request.json()["inputs"])),
    "/chat_tokenize": _chat_tokenize,
    "/info": lambda _: served(INFO),
    "/health": lambda _: [Status(200)],
}


class TGIDialect:
    """What `/generate_stream` and `/generate` send.

    The last event repeats the text and has the counts, so both are kept until it is written.
    """

    prefix = ""
    content_type = "text/event-stream"
    model = "not told"  # by this route, as is the id
    request_id = "not told"

    def __init__(self) -> None:
        self._said = ""
        self._usage: Usage | None = None

    def start(self) -> bytes:
        self._said, self._usage = "", None
        return self.keep_alive()

    def text(self, text: str, index: int = 0) -> bytes:
        # Whatever the index: a call has one answer here, and who asks for more is refused before it is sent.
        self._said += text
        return event({"index": 1, "token": token(text), "generated_text": None, "details": None})

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        return self.keep_alive()  # this route has no tools

    def usage(self, usage: Usage) -> bytes:
        self._usage = usage
        return self.keep_alive()

    def finish(self, index: int = 0) -> bytes:
        return self.keep_alive()

    def end(self) -> bytes:
        usage = self._usage or Usage()
        text, self._said = self._said, ""
        return event(generated(text, count=usage.output_tokens, length=usage.input_tokens))

    def error(self, message: str) -> bytes:
        return event({"error": message, "error_type": "generation"})

    def keep_alive(self) -> bytes:
        return b":\n\n"

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        text = texts[0]  # one answer a call
        details: dict[str, Any] = {"finish_reason": "eos_token", "prefill": [], "tokens": []}
        if usage is not None:
            details["generated_tokens"] = usage.output_tokens
            details["prefill"] = [{"id": 1, "text": "a", "logprob": None}] * (usage.input_tokens or 0)
        return msgspec.json.encode({"generated_text": text, "details": details})
