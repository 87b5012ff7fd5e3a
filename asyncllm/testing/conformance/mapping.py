"""Checks of what an error means: class, whether to try again, and the facts that the service gave."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from asyncllm.backend import (
    DubRequest,
    Embedder,
    EmbedRequest,
    Health,
    HttpCall,
    JobBackend,
    JobRequest,
    Models,
    PromptChecker,
    Tokenizer,
    VideoRequest,
)
from asyncllm.client import Client
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncLLMError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ContentFilterError,
    ContextLengthExceededError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    StreamInterrupted,
    UnprocessableEntityError,
)
from asyncllm.testing.conformance.failing import CANARY, Failing
from asyncllm.testing.conformance.harness import run_clean
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport

__all__ = ["MappingChecks"]

_BY_STATUS: Mapping[int, tuple[type[APIStatusError], bool]] = {
    400: (BadRequestError, False),
    401: (AuthenticationError, False),
    403: (PermissionDeniedError, False),
    404: (NotFoundError, False),
    408: (APIStatusError, True),
    409: (ConflictError, True),
    422: (UnprocessableEntityError, False),
    429: (RateLimitError, True),
    500: (InternalServerError, True),
    501: (InternalServerError, False),
    502: (InternalServerError, True),
    503: (OverloadedError, True),
    504: (InternalServerError, True),
    529: (OverloadedError, True),
}
_BY_CODE: Mapping[tuple[int, str], tuple[type[APIStatusError], bool]] = {
    (400, "content_filter"): (ContentFilterError, False),
    (400, "context_length_exceeded"): (ContextLengthExceededError, False),
    (401, "invalid_api_key"): (AuthenticationError, False),
    (429, "insufficient_quota"): (QuotaExceededError, False),
    (429, "rate_limit_exceeded"): (RateLimitError, True),
}
_WAITS: tuple[tuple[Mapping[str, str], float | None], ...] = (
    ({"Retry-After": "7"}, 7),
    ({"Retry-After": "0.5"}, 0.5),
    ({"retry-after-ms": "1500", "Retry-After": "7"}, 1.5),
    ({"Date": "Wed, 21 Oct 2026 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30),
    ({"Retry-After": "soon"}, None),
    ({"Retry-After": "-1"}, None),
    ({"Retry-After": "inf"}, None),
    ({"Retry-After": ""}, None),
    ({}, None),
)
_BODIES: Mapping[str, tuple[str, bytes]] = {
    "nothing": ("text/plain", b""),
    "a web page": ("text/html", b"<html><head><title>Bad gateway</title></head></html>"),
    "half of its JSON": ("application/json", b'{"error": {"message": "bro'),
    "another JSON": ("application/json", b'["what", 7, null]'),
    "bytes": ("application/octet-stream", bytes(range(256))),
}


_STATUSES = (400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529)


def _echo(call: HttpCall) -> bytes:
    """An error that repeats all it was sent, as servers do."""
    headers = " ".join(call.headers.values())
    text = f"invalid request: {call.body.decode()} {CANARY} with {headers}"
    return msgspec.json.encode({"error": {"message": text, "type": "server_error", "code": "broken"}})


def _refused(status: int) -> Callable[[HttpCall], ScriptedReply]:
    return lambda call: ScriptedReply(status, {"Content-Type": "application/json", "Retry-After": "7"}, _echo(call))


_BROKEN: Mapping[str, Callable[[HttpCall], ScriptedReply | BaseException]] = {
    "no body at all": lambda _: ScriptedReply(),
    "bytes that are nothing": lambda _: ScriptedReply(body=b"\x00\xff\xfe garbage {{{"),
    "an event that is nothing": lambda _: ScriptedReply(body=b"data: \xff\xfe{{{\n\n"),
    "a web page": lambda _: ScriptedReply(headers={"Content-Type": "text/html"}, body=b"<html>busy</html>"),
    "an error under status 200": lambda call: ScriptedReply(
        headers={"Content-Type": "application/json"}, body=_echo(call)
    ),
    "an error in the stream": lambda call: ScriptedReply(
        body=b"event: error\ndata: " + _echo(call) + b"\n\n" if call.stream else _echo(call)
    ),
    "a connection that breaks": lambda _: ScriptedReply(
        body=[StreamInterrupted("while reading the reply: cut", maybe_billed=True)]
    ),
    "no connection": lambda _: APIConnectionError("cannot connect to nowhere"),
}


class MappingChecks(Failing):
    """Status and code decide, never the wording. A backend that sends nothing has none of these failures."""

    def test_an_error_status_is_an_error_of_its_class(self) -> None:
        """For each status: on entering, with the status and the wait that the server asks for as fields."""
        for status in _STATUSES:
            for stream in (True, False):
                error = self.fail(_refused(status), stream=stream)
                if error is None:
                    return
                assert isinstance(error, APIStatusError), f"status {status} raises {type(error).__name__}"
                assert error.status == status, f"status {status} raises an error of status {error.status}"
                assert error.retry_after_s == 7, f"status {status} loses the Retry-After of its reply"
                self.is_proper(error)

    def test_a_reply_that_is_broken_is_never_an_answer(self) -> None:
        """An empty, cut or foreign reply, and an error in place of one: an `APIError`, streamed or not."""
        for what, reply in _BROKEN.items():
            for stream in (True, False):
                error = self.fail(reply, stream=stream)
                if error is None:
                    return
                assert isinstance(error, APIError), f"{what} raises {error!r}, which is no APIError"
                self.is_proper(error, what)

    def test_each_status_has_its_class_and_says_whether_to_try_again(self) -> None:
        """By the one table of `asyncllm.errors`."""
        for status, (kind, retryable) in _BY_STATUS.items():
            if self._is_mapped(_reply(status, {}, "broken"), kind, f"status {status}", retryable=retryable) is None:
                return

    def test_a_code_that_says_more_than_the_status_is_heard(self) -> None:
        """A quota is no rate limit, and a prompt that is too long no mere bad request."""
        for (status, code), (kind, retryable) in _BY_CODE.items():
            error = self._is_mapped(_reply(status, {}, code), kind, f"{status} {code}", retryable=retryable)
            if error is None:
                return
            assert error.code == code, f"{status} {code} is an error of the code {error.code!r}"

    def test_the_wait_that_a_service_asks_for_is_told(self) -> None:
        """In seconds, milliseconds or as a date; one that nobody can read is none."""
        for headers, wait_s in _WAITS:
            error = self.fail(_reply(429, headers, "rate_limit_exceeded"), stream=True)
            if error is None:
                return
            assert isinstance(error, RateLimitError), f"429 with {headers} raises {error!r}"
            assert error.retry_after_s == wait_s, f"{headers} is a wait of {error.retry_after_s}"

    def test_the_id_of_a_call_that_failed_is_told(self) -> None:
        """Under the names that services use, streamed or not."""
        for name in ("x-request-id", "request-id"):
            for stream in (True, False):
                error = self.fail(_reply(500, {name: "req_7f3a"}, "broken"), stream=stream)
                if error is None:
                    return
                assert isinstance(error, APIStatusError), f"500 raises {error!r}"
                assert error.request_id == "req_7f3a", f"the {name} of an error is {error.request_id!r}"

    def test_an_error_that_says_nothing_still_has_its_status(self) -> None:
        """An empty body, a web page, half a document, bytes."""
        for what, (kind, body) in _BODIES.items():
            reply = ScriptedReply(503, {"Content-Type": kind}, body)
            error = self.fail(lambda _, reply=reply: reply, stream=True)  # type: ignore[misc]
            if error is None:
                return
            assert isinstance(error, OverloadedError), f"503 with {what} raises {error!r}"
            self.is_proper(error, f"503 with {what}")

    def test_every_other_call_fails_by_the_same_classes(self) -> None:
        """Embedding, counting, listing, jobs, asking for life: a service that answers 429, and one with nonsense."""
        for reply, kind in ((_reply(429, {}, "rate_limit_exceeded"), RateLimitError), (_nonsense, AsyncLLMError)):
            run_clean(self._others_fail(ScriptedTransport([reply]), kind))

    def _is_mapped(
        self, reply: Callable[[HttpCall], ScriptedReply], kind: type[APIStatusError], what: str, *, retryable: bool
    ) -> APIStatusError | None:
        """The last of the errors; `None` for a backend that sends nothing."""
        last: APIStatusError | None = None
        for stream in (True, False):
            error = self.fail(reply, stream=stream)
            if error is None:
                return None
            assert type(error) is kind, f"{what} raises {error!r} and not {kind.__name__}"
            assert error.retryable is retryable, f"{what} says that trying again is {error.retryable}"
            last = error
        return last

    async def _others_fail(self, transport: ScriptedTransport, kind: type[AsyncLLMError]) -> None:
        async with self.connected(transport=transport) as backend:
            calls: dict[str, Callable[[], Awaitable[object]]] = {}
            if isinstance(backend, Embedder):
                embed = EmbedRequest(model=self.embed_model or self.model, texts=(CANARY,))
                calls["embed"] = lambda: backend.embed(embed)
            if isinstance(backend, PromptChecker):
                calls["check_prompt"] = lambda: backend.check_prompt(self.request(CANARY))
            if isinstance(backend, Tokenizer):
                calls["tokenize"] = lambda: backend.tokenize(self.request(CANARY))
            if isinstance(backend, Models):
                calls["list_models"] = backend.list_models
            if isinstance(backend, JobBackend):
                asked: dict[str, JobRequest] = {
                    "submit": self.request(CANARY, stream=False),
                    "submit_video": VideoRequest(model=self.model, prompt=CANARY),
                    "submit_dub": DubRequest(model=self.model, url=f"http://{CANARY}", target_language="es"),
                }
                for call_kind in backend.job_calls:
                    calls[call_kind] = functools.partial(backend.submit, asked[call_kind])
            for name, call in calls.items():
                sent = len(transport.calls)
                error = await self._raised(call)
                if len(transport.calls) == sent:
                    continue  # nothing was sent, so nobody refused
                assert isinstance(error, kind), f"{name} of a service that fails raises {error!r}"
                self.is_proper(error, name)
            if isinstance(backend, Health):
                sent = len(transport.calls)
                alive = await Client(backend=backend, model=self.model, env={}).is_alive()
                assert alive is False or len(transport.calls) == sent or kind is AsyncLLMError, (
                    "a refusal is a life sign"
                )
            assert transport.opened == transport.closed, "a failed call does not give its reply back"

    async def _raised(self, call: Callable[[], Awaitable[object]]) -> Exception | None:
        try:
            async with self.bounded():
                await call()
        except AssertionError:
            raise
        except Exception as error:
            return error
        return None


def _reply(status: int, headers: Mapping[str, str], code: str) -> Callable[[HttpCall], ScriptedReply]:
    body = msgspec.json.encode({"error": {"message": "no", "type": "some_error", "code": code}})
    return lambda _: ScriptedReply(status, {"Content-Type": "application/json", **headers}, body)


def _nonsense(_: HttpCall) -> ScriptedReply:
    return ScriptedReply(body=b"\x00\xff\xfe garbage {{{")
