"""The one tree of errors that this package raises on purpose.

    AsyncLLMError
    ├── ConfigError (also a ValueError)       what you gave is wrong; nothing was sent
    │   ├── InvalidRequestError               an argument of the call, named by `field`
    │   ├── InputError                        an input of a batch that cannot be read, by place
    │   ├── OutputExistsError                 something stands where an output is to be written
    │   └── PluginError                       an installed backend that cannot be loaded
    ├── WrongLoopError (also a RuntimeError)  a client used on a second event loop
    ├── UnsupportedError                      the backend lacks the option or the call; nothing was sent
    ├── BudgetExceededError
    ├── MaxRoundsExceededError                run_tools was to raise when the model wanted yet another round
    ├── JobFailedError
    ├── RowAbandonedError                     a row of a batch that is not asked again, its `code` says why
    ├── SandboxError                          a sandbox could not be made this time; its code has not run
    ├── WriteError                            an output could not be written
    ├── StoreError                            the store of a workspace cannot be used
    │   └── CorruptStoreError · BatchLockedError · BatchLostError
    └── APIError                              the call itself went wrong
        ├── APIConnectionError                no usable reply arrived
        │   ├── APITimeoutError (also a TimeoutError)
        │   │   └── ConnectTimeoutError · PoolTimeoutError · FirstEventTimeoutError
        │   │       · EventIdleTimeoutError · ByteIdleTimeoutError · TotalTimeoutError · JobTimeoutError
        │   ├── EngineDeadError               the engine inside this process has ended without being told to
        │   ├── ResourceExhaustedError        this machine has no socket left; nothing was sent
        │   ├── ProtocolError                 bytes that are not the HTTP or the stream that was asked for
        │   └── RedirectRefusedError          a redirect that would carry the key or the prompt elsewhere
        ├── StreamInterrupted                 the stream ended without its terminal event; `partial` has the rest
        ├── ResponseValidationError           a reply that does not decode to what was asked for
        │   ├── BodyTooLargeError             a whole body over the transport's limit
        │   └── EventTooLargeError            one event over the decoder's limit
        └── APIStatusError                    the server answered with an error
            ├── BadRequestError (400) > ContextLengthExceededError · ContentFilterError
            ├── AuthenticationError (401) · PermissionDeniedError (403) · NotFoundError (404)
            ├── ConflictError (409) · UnprocessableEntityError (422)
            ├── RateLimitError (429) > QuotaExceededError
            └── OverloadedError (503, 529) · InternalServerError (other 5xx)

Facts are fields; code branches on types and fields, never on message text. Keys, prompts and outputs never
stand in a message: what a server said is scrubbed of whatever it echoes before it becomes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncllm.types import Response

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncLLMError",
    "AuthenticationError",
    "BadRequestError",
    "BatchLockedError",
    "BatchLostError",
    "BodyTooLargeError",
    "BudgetExceededError",
    "ByteIdleTimeoutError",
    "ConfigError",
    "ConflictError",
    "ConnectTimeoutError",
    "ContentFilterError",
    "ContextLengthExceededError",
    "CorruptStoreError",
    "EngineDeadError",
    "EventIdleTimeoutError",
    "EventTooLargeError",
    "FirstEventTimeoutError",
    "InputError",
    "InternalServerError",
    "InvalidRequestError",
    "JobFailedError",
    "JobTimeoutError",
    "MaxRoundsExceededError",
    "NotFoundError",
    "OutputExistsError",
    "OverloadedError",
    "PermissionDeniedError",
    "PluginError",
    "PoolTimeoutError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "RedirectRefusedError",
    "ResourceExhaustedError",
    "ResponseValidationError",
    "RowAbandonedError",
    "SandboxError",
    "StoreError",
    "StreamInterrupted",
    "TotalTimeoutError",
    "UnprocessableEntityError",
    "UnsupportedError",
    "WriteError",
    "WrongLoopError",
]


class AsyncLLMError(Exception):
    """Base of every error this package raises on purpose.

    The message is the only positional argument and every fact is an optional keyword, so instances pickle and
    copy without a `__reduce__` of their own.
    """

    retryable: bool = False
    """Whether sending the identical call again may succeed."""
    maybe_billed: bool = False
    """Whether the request may have reached the model, so that it may be charged."""

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        model: str | None = None,
        field: str | None = None,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
        elapsed_s: float | None = None,
        events: int | None = None,
        attempts: Sequence[AsyncLLMError] = (),
        maybe_billed: bool | None = None,
        partial: Response | None = None,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        """What went wrong and what to do about it, in one sentence."""
        self.backend = backend
        """Name of the backend that was asked."""
        self.model = model
        """Model that was asked, in the backend's own naming."""
        self.field = field
        """The argument, setting or option at fault, as the caller spells it."""
        self.status = status
        """HTTP status, or the status that an error inside a stream carries."""
        self.code = code
        """The server's own word for the error (`code`, else `type` or `error_type`)."""
        self.param = param
        """The request field that the server blames."""
        self.request_id = request_id
        """The server's id for this call, for its support."""
        self.retry_after_s = retry_after_s
        """Seconds the server asks to wait before the next attempt."""
        if retryable is not None:
            self.retryable = retryable
        self.elapsed_s = elapsed_s
        """Seconds from the start of the call, or of the wait that timed out, to the error."""
        self.events = events
        """Events received before the error."""
        self.attempts = tuple(attempts)
        """Errors of all attempts, oldest first, where more than one was made. Of a `TotalTimeoutError`, those of the
        attempts that had failed by then."""
        self.maybe_billed = type(self).maybe_billed if maybe_billed is None else maybe_billed
        self.partial = partial
        """What had arrived before the error, folded as far as it goes."""
        self.body = body
        """The error reply as received, at most 64 KiB. It may echo the prompt, so it never shows in text."""

    def __str__(self) -> str:
        facts = {
            "backend": self.backend,
            "model": self.model,
            "status": self.status,
            "code": self.code,
            "param": self.param,
            "request_id": self.request_id,
            "retry_after_s": self.retry_after_s,
        }
        told = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        text = f"{self.message} ({told})" if told else self.message
        return f"{text} after {len(self.attempts)} attempts" if len(self.attempts) > 1 else text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def facts(self) -> dict[str, Any]:
        """Every fact that is set, by name: what a log record or a retry decision needs, free of content."""
        hidden = {"message", "partial", "body", "attempts"}
        return {name: value for name, value in vars(self).items() if name not in hidden and value not in (None, ())}


class ConfigError(AsyncLLMError, ValueError):
    """Something given to this package is wrong or missing; nothing was sent."""


class InvalidRequestError(ConfigError):
    """An argument of a call cannot be right; `field` names it and nothing was sent."""


class InputError(ConfigError):
    """An input of a batch is missing, or something in it cannot be read; the message names file, line and fix."""


class OutputExistsError(ConfigError):
    """Something stands where an output is to be written, and was not to be written over."""


class PluginError(ConfigError):
    """An installed backend cannot be found, told apart, or loaded. Other backends are not affected."""


class WrongLoopError(AsyncLLMError, RuntimeError):
    """A client bound to one event loop was used on another."""


class UnsupportedError(AsyncLLMError):
    """The backend lacks the option or the call; `field` names it and nothing was sent."""


class BudgetExceededError(AsyncLLMError):
    """The call would go over a budget of the caller's own."""


class MaxRoundsExceededError(AsyncLLMError):
    """A model asked for more tool calls after the last of `max_rounds`; `partial` is its last answer."""

    maybe_billed = True


class JobFailedError(AsyncLLMError):
    """A job ended, and not in success."""


class RowAbandonedError(AsyncLLMError):
    """A row of a batch that is not asked again, or never was.

    `code` says why: `dead_letter` for one during which the process ended too often, `expired` where the batch was out
    of time, `cancelled` where it was cancelled.
    """


class SandboxError(AsyncLLMError):
    """The machine could not make a sandbox this time, though it could before. The code that was to run in it has not.

    The message names the layer; `code` is `sandbox_refused`.
    """

    retryable = True


class WriteError(AsyncLLMError):
    """An output could not be written. What it would have held is still where it came from."""


class StoreError(AsyncLLMError):
    """The store of a workspace cannot be used as it is, or where it is."""


class CorruptStoreError(StoreError):
    """The store holds what was not written to it. Nothing was changed."""


class BatchLockedError(StoreError):
    """Another runner is at work on the batch."""


class BatchLostError(StoreError):
    """Another runner has taken the batch over, because this one had stood still. Nothing of this one is kept since."""


class APIError(AsyncLLMError):
    """The call itself went wrong, on the way or at the other end."""


class APIConnectionError(APIError):
    """No usable reply arrived: the name, the network, the handshake or the connection failed."""

    retryable = True


class APITimeoutError(APIConnectionError, TimeoutError):
    """A deadline passed; the subclass says which one, `elapsed_s` and `events` how far the call had come."""


class ConnectTimeoutError(APITimeoutError):
    """No connection, TLS included, within `Timeouts.connect_s`. The request was not sent."""


class PoolTimeoutError(APITimeoutError):
    """No free connection or slot within `Timeouts.pool_s`. The request was not sent."""


class FirstEventTimeoutError(APITimeoutError):
    """Nothing from the model within `Timeouts.first_event_s` of sending."""


class EventIdleTimeoutError(APITimeoutError):
    """A running stream gave no event for `Timeouts.event_idle_s`; keep-alive comments do not count."""


class ByteIdleTimeoutError(APITimeoutError):
    """A running reply gave no byte for `Timeouts.byte_idle_s`: the peer is gone."""


class TotalTimeoutError(APITimeoutError):
    """The whole call, attempts and waits included, took longer than `Timeouts.total_s`."""

    retryable = False


class JobTimeoutError(APITimeoutError):
    """A job was not over in the time that was given it. It goes on, and can be waited for again by its id."""

    retryable = False
    maybe_billed = True


class EngineDeadError(APIConnectionError):
    """An engine that runs inside this process has ended without being told to, and every call to it with it."""

    retryable = False


class ResourceExhaustedError(APIConnectionError):
    """This process or machine has no socket, port or memory left for a connection. The request was not sent."""

    retryable = False


class ProtocolError(APIConnectionError):
    """The peer sent bytes that are not the HTTP or the stream format that was asked for."""


class RedirectRefusedError(APIConnectionError):
    """The server redirects the call; following would carry the key and the prompt to another address."""

    retryable = False


class StreamInterrupted(APIError):  # noqa: N818  # it says what happened; the name is part of the public surface
    """The stream ended without its terminal event; `partial` holds what had arrived.

    Never retried silently once content was delivered: the caller has seen part of the reply.
    """

    retryable = True


class ResponseValidationError(APIError):
    """A reply arrived whole but does not decode to what was asked for."""

    maybe_billed = True


class BodyTooLargeError(ResponseValidationError):
    """A reply that is read whole is larger than the transport's `max_body_bytes`."""


class EventTooLargeError(ResponseValidationError):
    """One server-sent event is larger than the decoder's `max_event_bytes`."""


class APIStatusError(APIError):
    """The server answered with an error status, or with an error inside a stream."""


class BadRequestError(APIStatusError):
    """400: the server refuses the request as sent."""


class ContextLengthExceededError(BadRequestError):
    """The prompt, or prompt and answer together, do not fit the model's context."""


class ContentFilterError(BadRequestError):
    """A content filter of the service refused the prompt."""


class AuthenticationError(APIStatusError):
    """401: the key is missing, wrong or expired."""


class PermissionDeniedError(APIStatusError):
    """403: the key is valid and may not do this."""


class NotFoundError(APIStatusError):
    """404 or 410: no such model, deployment, resource or route."""


class ConflictError(APIStatusError):
    """409: another operation holds the resource."""

    retryable = True


class UnprocessableEntityError(APIStatusError):
    """422: well-formed, but the server's validation refuses a value."""


class RateLimitError(APIStatusError):
    """429: too many calls or tokens for now; `retry_after_s` is the server's own advice."""

    retryable = True


class QuotaExceededError(RateLimitError):
    """The account's credit or quota is used up: waiting does not help."""

    retryable = False


class OverloadedError(APIStatusError):
    """503 or 529: the service is short of capacity."""

    retryable = True


class InternalServerError(APIStatusError):
    """500 and the other 5xx: the service failed."""

    retryable = True
