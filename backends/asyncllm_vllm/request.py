"""A request as vLLM takes it, or the error that says what it would have ignored.

`extra` may hold, for this backend:

    lora                    an adapter, by its name in the option `lora_modules` or by its folder
    priority                a whole number, the smaller the sooner; the engine needs scheduling_policy="priority"
    chat_template_kwargs    what this chat gives to the template
    bad_words, allowed_token_ids, prompt_logprobs, logprob_token_ids, skip_special_tokens,
    spaces_between_special_tokens, thinking_token_budget, stream_interval
                            as `vllm.SamplingParams` has them
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import require_supported
from asyncllm.dialect import Flavor, write_chat
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import Choice, Grammar, JsonSchema, Regex, Request

__all__ = ["Extra", "body", "check_supported", "read_extra", "sampling_fields"]

_SUPPORTED = frozenset(
    {
        "chat", "complete", "extra", "tools", "tool_choice", "parallel_tool_calls", "JsonSchema", "Regex", "Choice",
        "Grammar", "image parts", "audio parts", "max_tokens", "temperature", "top_p", "stop", "seed",
        "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "logit_bias", "reasoning_effort",
        "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output",
        "stop_token_ids",
    }
)  # fmt: skip


class Extra(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one call may ask for beyond what all backends share."""

    lora: str | None = None
    priority: int = 0
    chat_template_kwargs: dict[str, Any] = {}
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    thinking_token_budget: int | None = None
    stream_interval: int | None = None


_NONE = Extra()
_OURS = frozenset({"lora", "priority", "chat_template_kwargs"})


def check_supported(request: Request, *, backend: str) -> None:
    """Raise `UnsupportedError` or `InvalidRequestError` for what can be said without the engine."""
    require_supported(request, _SUPPORTED, backend=backend)
    if request.constraint is not None and request.tools:
        raise UnsupportedError(f"the {backend!r} backend takes tools or a constraint, not both", field="constraint")


def read_extra(request: Request) -> Extra:
    """Check what only this backend knows. Raises `InvalidRequestError` naming it."""
    if not request.extra:
        return _NONE
    try:
        return msgspec.convert(request.extra, Extra)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`") or "extra"
        raise InvalidRequestError(f"extra: {reason[:1].lower()}{reason[1:]} ({name})", field=name) from None


def sampling_fields(request: Request, extra: Extra, defaults: dict[str, Any], room: int) -> dict[str, Any]:
    """The fields of `vllm.SamplingParams` for `request`; `room` is how many tokens the answer can have at most."""
    fields: dict[str, Any] = {**defaults, **msgspec.to_builtins(request.sampling)}
    if isinstance(request.sampling.stop, tuple):
        fields["stop"] = list(request.sampling.stop)
    fields["max_tokens"] = min(fields.get("max_tokens", room), room)
    logprobs, top = fields.pop("logprobs", None), fields.pop("top_logprobs", None)
    if logprobs or top is not None:
        fields["logprobs"] = top or 0
    fields.pop("reasoning_effort", None)
    if extra is not _NONE:
        for name in Extra.__struct_fields__:
            if name not in _OURS and (value := getattr(extra, name)) is not None:
                fields[name] = value
    match request.constraint:
        case JsonSchema(schema=schema):
            fields["constraint"] = {"json": schema}
        case Regex(pattern=pattern):
            fields["constraint"] = {"regex": pattern}
        case Choice(options=options):
            fields["constraint"] = {"choice": list(options)}
        case Grammar(grammar=grammar):
            fields["constraint"] = {"grammar": grammar}
        case None:
            pass
    return fields


_FLAVOR = Flavor(max_tokens="max_completion_tokens")  # of the other name vLLM warns


def body(request: Request) -> dict[str, Any]:
    """The chat as OpenAI's API would get it, which is the form in which vLLM's own templates and parsers take it."""
    plain = msgspec.structs.replace(request, constraint=None, extra={})
    written: dict[str, Any] = msgspec.json.decode(write_chat(plain, _FLAVOR))
    if request.tools and request.tool_choice is UNSET:
        written["tool_choice"] = "auto"
    return written
