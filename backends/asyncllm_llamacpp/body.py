"""A request as llama.cpp takes it, or the error that says what it would have ignored.

llama.cpp's server drops fields that it does not know and options that it cannot honour, without a word. What is not
listed here as honoured was seen to be dropped, and is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from asyncllm.backend import require_supported
from asyncllm.dialect import write_chat, write_completion
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import Choice, Constraint, Grammar, JsonSchema, Regex, Request, Sampling
from asyncllm_llamacpp.engine import Engine
from asyncllm_llamacpp.grammar import check_grammar, choice_grammar
from asyncllm_llamacpp.regex import regex_grammar
from asyncllm_llamacpp.schema import check_schema

__all__ = ["check_supported", "write_body", "write_count"]

_SUPPORTED = frozenset(
    {
        "chat", "complete", "extra", "tools", "tool_choice", "JsonSchema", "Regex", "Choice", "Grammar",
        "max_tokens", "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logprobs",
        "top_logprobs", "n", "logit_bias", "top_k", "min_p", "repetition_penalty", "ignore_eos",
    }
)  # fmt: skip
_SEEDS = 0xFFFF_FFFF  # the last 32-bit number means "random"


def check_supported(request: Request, *, backend: str) -> None:
    """Raise what can be said of a request before its model is loaded: `UnsupportedError`, `InvalidRequestError`."""
    require_supported(request, _SUPPORTED, backend=backend)
    if request.tool_choice not in (UNSET, "auto", "none"):
        # Where the template is one that llama.cpp has to guess the format of, the model answered in prose all the same.
        raise UnsupportedError(
            f"the {backend!r} backend cannot hold the model to calling a tool: tool_choice is 'auto' or 'none'",
            backend=backend,
            field="tool_choice",
        )
    if request.constraint is not None and request.tools:
        raise UnsupportedError(f"the {backend!r} backend takes tools or a constraint, not both", field="constraint")
    _constraint(request.constraint)


def write_body(request: Request, engine: Engine, *, backend: str) -> bytes:
    """The body of a chat or completion, always streamed. Raises `UnsupportedError`, `InvalidRequestError`."""
    if request.sampling.n is not UNSET and request.sampling.n > engine.options.n_parallel:
        raise InvalidRequestError(
            f"n={request.sampling.n} is more answers than there are slots: "
            f"options={{'n_parallel': {request.sampling.n}}} makes room",
            field="n",
        )
    added: dict[str, Any] = {
        # Reported after each part of the prompt: the one moment at which a long prompt can be stopped.
        "return_progress": True,
        **_constraint(request.constraint),
    }
    if request.sampling.repetition_penalty is not UNSET:
        added["repeat_penalty"] = request.sampling.repetition_penalty
    request = msgspec.structs.replace(
        _with_tools(request, engine, backend),
        stream=True,
        sampling=_sampling(request.sampling),
        constraint=None,
        extra={**added, **request.extra},
    )
    return write_chat(request) if request.is_chat else write_completion(request)


def write_count(request: Request, engine: Engine, *, backend: str) -> bytes:
    """The body that asks how many tokens a chat's prompt has."""
    return write_chat(
        msgspec.structs.replace(
            _with_tools(request, engine, backend), sampling=Sampling(), constraint=None, stream=False
        )
    )


def _sampling(sampling: Sampling) -> Sampling:
    changes: dict[str, Any] = {"repetition_penalty": UNSET}
    if sampling.seed is not UNSET:
        # llama.cpp would cut off the upper bits, and take what is left for "random" where it is all ones.
        changes["seed"] = sampling.seed % _SEEDS
    if sampling.logprobs or sampling.top_logprobs is not UNSET:
        changes["logprobs"] = True
        changes["top_logprobs"] = sampling.top_logprobs or 1
    return msgspec.structs.replace(sampling, **changes)


def _with_tools(request: Request, engine: Engine, backend: str) -> Request:
    """The request as it is, unless its tools would be lost."""
    if not request.tools and not any(message.tool_calls for message in request.messages):
        return request
    if not engine.facts.takes_tools:
        raise UnsupportedError(
            f"the chat template of this model knows no tools, so the {backend!r} backend cannot pass them on; "
            "choose a model that was trained on them, or give options={'chat_template': ...}",
            backend=backend,
            field="tools",
        )
    return request


def _constraint(constraint: Constraint | None) -> dict[str, Any]:
    match constraint:
        case None:
            return {}
        case JsonSchema(schema=schema):
            check_schema(schema)
            return {"json_schema": schema}
        case Grammar(grammar=grammar):
            check_grammar(grammar)
            return {"grammar": grammar}
        case Choice(options=options):
            return {"grammar": choice_grammar(options)}
        case Regex(pattern=pattern):
            return {"grammar": regex_grammar(pattern)}
