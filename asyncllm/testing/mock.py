"""A server that speaks OpenAI's dialect and has no model: for pointing any client at.

`OpenAIMock` is the script function of a `FaultyServer`; `asyncllm mock-server` serves it from the command line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from asyncllm.errors import ConfigError
from asyncllm.testing.ops import Chunk, Fin, Named, Op, Pause, Rst, Stall, Status
from asyncllm.testing.seen import SeenRequest
from asyncllm.testing.wire import sse_event

__all__ = ["Failure", "OpenAIMock"]

Failure: TypeAlias = Literal["429", "500", "503", "529", "reset", "close", "stall", "cut", "error-event"]
"""How a call fails: with a status, before any reply (`reset`, `close`, `stall`), or half way through its stream.

`cut` closes the connection in the middle of the answer, `error-event` says in the stream that it failed. A reply that
is not streamed is cut in the middle of its body, and has status 500 in place of an error event.
"""

_TOKEN = re.compile(r"\s*\S+|\s+")
_ON_PURPOSE = "the mock fails on purpose"
_ERRORS: Mapping[int, str] = {
    400: "the body is not a JSON object with what this route needs",
    404: "this mock serves POST chat/completions, completions and embeddings, and GET models",
    405: "another method is needed here",
    429: "too many requests, says the mock",
}


class OpenAIMock(Struct, frozen=True, kw_only=True):
    """Answers chats, completions, embeddings and the list of models; a failing call fails as `failure` says.

    A token is a word with the space before it. Raises `ConfigError` naming the field that cannot be.
    """

    answer: str | None = None
    """What every call is answered; `None` repeats the prompt."""
    tokens: int | None = None
    """Tokens an answer, which is repeated or cut; `None` takes it as it is. `max_tokens` of a call cuts it further."""
    first_token_s: float = 0
    """Seconds before the first token, or before a reply that is not streamed."""
    token_s: float = 0
    """Seconds between two tokens; a reply that is not streamed takes as long as the stream would."""
    failure_rate: float = 0
    """Share of calls that fail, from 0 to 1."""
    failure: Failure = "503"
    seed: int | None = None
    """Makes the same calls fail in every run."""
    model: str = "mock"
    """The one that the list of models names; every name is answered."""

    def __post_init__(self) -> None:
        for name in ("first_token_s", "token_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is a number of seconds from zero up", field=name)
        if not 0 <= self.failure_rate <= 1:
            raise ConfigError("failure_rate is a share from 0 to 1", field="failure_rate")
        if self.failure not in get_args(Failure):
            raise ConfigError(f"failure is one of {', '.join(get_args(Failure))}", field="failure")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError("tokens is a whole number from 1 up", field="tokens")

    def script(self) -> _Mock:
        """A script function for one server: `FaultyServer(OpenAIMock().script())`."""
        return _Mock(self)


class _Mock:
    def __init__(self, mock: OpenAIMock) -> None:
        self._mock = mock
        self._draw = random.Random(mock.seed).random
        self._calls = 0

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """What to do with `request`."""
        route = request.path.partition("?")[0].rstrip("/").removeprefix("/v1")
        if route == "/models":
            models = [{"id": self._mock.model, "object": "model", "created": 0, "owned_by": "asyncllm"}]
            return [_json({"object": "list", "data": models})] if request.method == "GET" else [_error(405)]
        if route not in ("/chat/completions", "/completions", "/embeddings"):
            return [_error(404)]
        if request.method != "POST":
            return [_error(405)]
        try:
            body = msgspec.json.decode(request.body, type=_Body)
        except msgspec.DecodeError:
            return [_error(400)]
        self._calls += 1
        if route == "/embeddings":
            return self._fail() if self._fails() else [_embeddings(body)]
        return self._generate(body, chat=route == "/chat/completions")

    def _fails(self) -> bool:
        return self._draw() < self._mock.failure_rate

    def _fail(self) -> list[Op]:
        match self._mock.failure:
            case "reset":
                return [Rst()]
            case "close":
                return [Fin()]
            case "stall":
                return [Stall()]
            case "cut" | "error-event":
                return [_error(500)]
            case status:
                return [_error(int(status))]

    def _generate(self, body: _Body, *, chat: bool) -> list[Op]:
        tokens, finish = self._tokens(body)
        reply = _Reply(body, chat, f"mock-{self._calls}", tokens, finish)
        fails = self._fails()
        if fails and self._mock.failure not in ("cut", "error-event"):
            return self._fail()
        if body.stream:
            return self._stream(reply, fails=fails)
        took = Pause(self._mock.first_token_s + self._mock.token_s * max(0, len(tokens) - 1))
        whole = _json(reply.whole())
        if not fails:
            return [took, whole]
        if self._mock.failure == "error-event":
            return [took, _error(500)]
        data = whole.body or b""
        cut = Status(200, {"Content-Type": "application/json", "Content-Length": str(len(data))}, None)
        return [took, cut, data[: len(data) // 2], Fin()]

    def _stream(self, reply: _Reply, *, fails: bool) -> list[Op]:
        writes = [b"".join(map(sse_event, documents)) for documents in reply.chunks()]
        ending: list[Op] = [Chunk()]
        if not fails:
            writes[-1] += sse_event("[DONE]")
        elif self._mock.failure == "cut":
            writes, ending[0] = writes[: len(writes) // 2], Fin()
        else:
            error = {"error": {"message": _ON_PURPOSE, "type": "mock_error", "code": 500}}
            writes = [*writes[: len(writes) // 2], sse_event(Named("error", error))]
        head = Status(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, None)
        ops: list[Op] = [Pause(self._mock.first_token_s), head]
        for number, data in enumerate(writes):
            if number:
                ops.append(Pause(self._mock.token_s))
            ops.append(Chunk(data))
        return [*ops, *ending]

    def _tokens(self, body: _Body) -> tuple[list[str], str]:
        tokens = _TOKEN.findall(body.text if self._mock.answer is None else self._mock.answer)
        if self._mock.tokens is not None:
            tokens = list(islice(cycle(tokens or ["token "]), self._mock.tokens))
        limit = body.max_completion_tokens or body.max_tokens
        return (tokens[:limit], "length") if limit and limit < len(tokens) else (tokens, "stop")


class _Part(Struct):
    """A piece of a message, which may be an image."""

    text: str = ""


class _Message(Struct):
    """One turn."""

    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""


class _Body(Struct):
    """What the mock reads of a request."""

    model: str = "mock"
    messages: list[_Message] = []
    prompt: str | list[Any] = ""
    """Token ids and several prompts are taken for one empty text."""
    input: str | list[Any] = ""
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None

    @property
    def text(self) -> str:
        """The last message, or the prompt."""
        if self.messages:
            return self.messages[-1].text
        return self.prompt if isinstance(self.prompt, str) else ""

    @property
    def size(self) -> int:
        """Tokens of the whole prompt."""
        texts = [message.text for message in self.messages] or [self.text]
        return sum(len(_TOKEN.findall(text)) for text in texts)


class _Reply(Struct, frozen=True):
    """One answer, in either form."""

    body: _Body
    chat: bool
    id: str
    tokens: list[str]
    finish: str

    def whole(self) -> dict[str, Any]:
        """The answer in one document."""
        text = "".join(self.tokens)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choices = [{"index": index, **said, "finish_reason": self.finish} for index in range(self.body.n or 1)]
        return {**self._head(""), "choices": choices, "usage": self._usage()}

    def chunks(self) -> list[list[dict[str, Any]]]:
        """The documents of a stream, by the token that brings them: the role the first, the reason the last."""
        groups = [self._choices(self._delta(token)) for token in self.tokens] or [[]]
        if self.chat:
            groups[0] = self._choices(self._delta("", role=True)) + groups[0]
        groups[-1] += self._choices({**self._delta(None), "finish_reason": self.finish})
        if (self.body.stream_options or {}).get("include_usage"):
            groups[-1].append({**self._head(".chunk"), "choices": [], "usage": self._usage()})
        return groups

    def _choices(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        head = self._head(".chunk")
        return [
            {**head, "choices": [{"index": index, "finish_reason": None, **delta}]} for index in range(self.body.n or 1)
        ]

    def _delta(self, text: str | None, *, role: bool = False) -> dict[str, Any]:
        if not self.chat:
            return {"text": text or ""}
        said = {} if text is None else {"content": text}
        return {"delta": {"role": "assistant", **said} if role else said}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": 0, "model": self.body.model}

    def _usage(self) -> dict[str, int]:
        prompt, answer = self.body.size, len(self.tokens) * (self.body.n or 1)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _embeddings(body: _Body) -> Status:
    """Vectors of two numbers, by the length of each text."""
    texts = body.input if isinstance(body.input, list) else [body.input]
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(str(text))), 1.0]}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return _json({"object": "list", "data": data, "model": body.model, "usage": usage})


def _json(document: Mapping[str, Any]) -> Status:
    return Status(200, body=msgspec.json.encode(document))


def _error(status: int) -> Status:
    message = _ERRORS.get(status, _ON_PURPOSE)
    return Status(
        status, body=msgspec.json.encode({"error": {"message": message, "type": "mock_error", "code": status}})
    )
