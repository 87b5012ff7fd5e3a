"""Requests in TGI's own words, and what of a request it has no place for.

What TGI's router refuses with status 422 and can be known beforehand is refused here, by the caller's own name for it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from asyncllm.backend import require_supported
from asyncllm.dialect import Flavor, write_chat
from asyncllm.dialect.requests import encode
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import Constraint, JsonSchema, Regex, Request, Sampling

__all__ = ["check", "stop_texts", "write_chat_body", "write_chat_count", "write_count", "write_generate"]

_BOTH = frozenset(
    {
        "extra", "max_tokens", "temperature", "top_p", "stop", "seed", "frequency_penalty", "logprobs", "top_logprobs",
        "include_stop_str_in_output", "JsonSchema", "Regex",
    }
)  # fmt: skip
_COMPLETION = _BOTH | {"complete", "top_k", "repetition_penalty"}
# TGI's chat route reads `presence_penalty` as a repetition penalty, and `n` and `logit_bias` not at all.
_CHAT = _BOTH | {"chat", "tools", "tool_choice", "image parts"}
_STOPS = 4
_FLAVOR = Flavor(reasoning="")


def check(request: Request, *, backend: str) -> None:
    """Raise `UnsupportedError` for what TGI has no place for, `InvalidRequestError` for what it would refuse."""
    require_supported(request, _CHAT if request.is_chat else _COMPLETION, backend=backend)
    if isinstance(request.prompt, tuple):
        raise UnsupportedError(
            f"the {backend!r} backend does not support a prompt of token ids; TGI takes a text",
            backend=backend,
            model=request.model,
            field="prompt",
        )
    _check_sampling(request.sampling)
    if request.tools and request.constraint is not None:
        raise InvalidRequestError(
            "TGI holds an answer to a constraint or to tools, not to both: leave one out", field="constraint"
        )
    rival = "response_format" if request.is_chat else "grammar"
    if request.constraint is not None and rival in request.extra:
        raise InvalidRequestError(f"an answer takes one constraint, and extra holds {rival!r} too", field="constraint")
    if not request.is_chat:
        _check_parameters(request)


def stop_texts(sampling: Sampling) -> tuple[str, ...]:
    """The stop texts as a list, whichever way they were given."""
    stop = sampling.stop
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def write_generate(request: Request) -> bytes:
    """The body of `POST /generate` and of `/generate_stream`."""
    parameters: dict[str, Any] = {"details": True, **_parameters(request.sampling)}
    if request.constraint is not None:
        parameters["grammar"] = _grammar(request.constraint)
    return encode({"inputs": request.prompt, "parameters": {**parameters, **request.extra}})


def write_count(request: Request) -> bytes:
    """The body of `POST /tokenize`."""
    return encode({"inputs": request.prompt})


def write_chat_body(request: Request) -> bytes:
    """The body of `POST /v1/chat/completions`."""
    sampling = request.sampling
    stop = stop_texts(sampling)
    sampling = msgspec.structs.replace(
        sampling,
        stop=stop or UNSET,  # as a list: TGI takes no bare text
        top_p=_top_p(sampling),
        include_stop_str_in_output=UNSET,
    )
    extra = request.extra
    if request.constraint is not None:
        extra = {"response_format": _grammar(request.constraint), **extra}
    return write_chat(msgspec.structs.replace(request, sampling=sampling, constraint=None, extra=extra), _FLAVOR)


def write_chat_count(request: Request) -> bytes:
    """The body of `POST /chat_tokenize`: a chat request, of which the sampling says nothing about its length."""
    bare = msgspec.structs.replace(request, sampling=Sampling(), constraint=None, stream=False)
    return write_chat(bare, _FLAVOR)


def _parameters(sampling: Sampling) -> dict[str, Any]:
    """Sampling options by TGI's names; those whose value is TGI's way without them stay out."""
    found: dict[str, Any] = {
        "max_new_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": stop_texts(sampling) or UNSET,
        "top_n_tokens": sampling.top_logprobs or UNSET,
    }
    if sampling.temperature == 0:
        # Greedy. TGI takes no temperature of zero, and would sample where it finds top_k or top_p, which leave the
        # likeliest token what it is.
        found["do_sample"] = False
    else:
        found |= {"temperature": sampling.temperature, "top_p": _top_p(sampling), "top_k": sampling.top_k}
        if sampling.temperature is not UNSET:
            found["do_sample"] = True
    return {name: value for name, value in found.items() if value is not UNSET}


def _top_p(sampling: Sampling) -> Any:
    """`top_p`, unless it cuts nothing: TGI takes no 1, which is what it does without.

    Of temperature 0 it leaves the likeliest token what it is, and TGI would sample where it finds one.
    """
    return UNSET if sampling.top_p == 1 or sampling.temperature == 0 else sampling.top_p


def _grammar(constraint: Constraint) -> dict[str, Any]:
    if isinstance(constraint, JsonSchema):
        return {"type": "json", "value": constraint.schema}
    assert isinstance(constraint, Regex)  # the others have been refused by name
    return {"type": "regex", "value": constraint.pattern}


def _check_sampling(sampling: Sampling) -> None:
    if len(stop_texts(sampling)) > _STOPS:
        raise InvalidRequestError(f"stop: TGI takes at most {_STOPS} stop texts", field="stop")
    if not all(stop_texts(sampling)):
        raise InvalidRequestError("stop: a stop text is not empty", field="stop")
    if isinstance(sampling.top_k, int) and sampling.top_k < 1:
        raise InvalidRequestError("top_k: TGI takes 1 and up; leave it out for no limit", field="top_k")
    if isinstance(sampling.seed, int) and sampling.seed < 0:
        raise InvalidRequestError("seed: TGI takes 0 and up", field="seed")
    if sampling.frequency_penalty == -2:
        raise InvalidRequestError("frequency_penalty: TGI takes values above -2", field="frequency_penalty")


def _check_parameters(request: Request) -> None:
    """Of TGI's own parameters, those that exclude something else."""
    best_of = request.extra.get("best_of")
    several = best_of is not None and best_of != 1
    if several and request.stream:
        raise InvalidRequestError("best_of: TGI streams one answer, so leave it out or stream not", field="best_of")
    if several and request.sampling.seed is not UNSET:
        raise InvalidRequestError("best_of: TGI draws each answer by a seed of its own; leave seed out", field="seed")
    if request.extra.get("decoder_input_details") and request.stream:
        raise InvalidRequestError(
            "decoder_input_details: TGI has them in a plain answer alone", field="decoder_input_details"
        )
