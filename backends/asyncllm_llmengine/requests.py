"""Requests of the completions API V1: what is unset stays off the wire, where the vendor's client sends nulls."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from asyncllm.errors import InvalidRequestError
from asyncllm.types import Request
from asyncllm_llmengine.checks import guided

__all__ = ["Defaults", "write_v1"]

_encoder = msgspec.json.Encoder()
_SAME = ("top_k", "top_p", "presence_penalty", "frequency_penalty", "include_stop_str_in_output")


class Defaults(Struct, frozen=True, kw_only=True):
    """Values of the two fields that V1 takes no request without."""

    max_new_tokens: int
    temperature: float


def write_v1(request: Request, defaults: Defaults) -> tuple[int | None, bytes]:
    """The limit of new tokens, if it can be told, and the body of a completion, which is the same for a stream.

    Raises `InvalidRequestError` for what is no JSON.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "prompt": request.prompt,
        "max_new_tokens": defaults.max_new_tokens if sampling.max_tokens is UNSET else sampling.max_tokens,
        "temperature": defaults.temperature if sampling.temperature is UNSET else sampling.temperature,
    }
    if sampling.stop is not UNSET:
        body["stop_sequences"] = [sampling.stop] if isinstance(sampling.stop, str) else list(sampling.stop)
    if sampling.logprobs is not UNSET:
        body["return_token_log_probs"] = sampling.logprobs
    body |= {name: value for name in _SAME if (value := getattr(sampling, name)) is not UNSET}
    if request.constraint is not None:
        body |= guided(request.constraint)
    body |= request.extra
    limit = body["max_new_tokens"]
    return limit if type(limit) is int else None, _encode(body)


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:
        raise InvalidRequestError("the prompt or an option holds half of a surrogate pair", field="prompt") from None
    except TypeError as error:
        raise InvalidRequestError(f"an option is not JSON: {error}", field="extra") from None
