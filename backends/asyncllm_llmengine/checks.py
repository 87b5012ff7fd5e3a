"""What LLM Engine refuses, refused before it is sent, by the field's name and what it may be.

Source: the request types and the use cases of https://github.com/scaleapi/llm-engine/tree/main/model-engine.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import Choice, Constraint, Grammar, JsonSchema, Regex, Request, Sampling

__all__ = ["FRAMEWORKS", "TENSORRT", "check_completion", "check_guided", "guided", "is_between"]

TENSORRT = "tensorrt_llm"
FRAMEWORKS = ("vllm", "text_generation_inference", "lightllm", "deepspeed", TENSORRT, "sglang")

_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 1),
    "presence_penalty": (0, 2),
    "frequency_penalty": (0, 2),
}
# Which frameworks take an option that not all of them take.
_TAKEN_BY: dict[str, frozenset[str]] = {
    "top_k": frozenset({"vllm", "text_generation_inference", "lightllm"}),
    "top_p": frozenset({"vllm", "text_generation_inference", "lightllm"}),
    "presence_penalty": frozenset({"vllm", "lightllm"}),
    "frequency_penalty": frozenset({"vllm", "lightllm"}),
    "logprobs": frozenset({"vllm", "text_generation_inference", "lightllm", "deepspeed"}),
    "include_stop_str_in_output": frozenset({"vllm"}),
}


def check_completion(request: Request, framework: str, *, temperature: float, backend: str) -> None:
    """Raise for what V1 refuses of every framework, and of `framework` where it is known.

    `temperature` is that of a call which says none.

    Raises `InvalidRequestError` for a value, `UnsupportedError` for an option that the framework lacks.
    """
    if not isinstance(request.prompt, str):
        raise UnsupportedError(
            f"the {backend!r} backend does not support token ids for a prompt in V1; give a text, or set the option "
            "completions='v2'",
            backend=backend,
            field="prompt",
        )
    _check_values(request.sampling, temperature)
    check_guided(request)
    if framework:
        _check_framework(request, framework, backend)


def check_guided(request: Request) -> None:
    """Raise `InvalidRequestError` for more than one way to guide an answer: constraint and `extra` count together."""
    given = [name for name in (*_GUIDED, "structured_outputs") if request.extra.get(name) is not None]
    if request.constraint is not None:
        given.insert(0, "constraint")
    if len(given) > 1:
        raise InvalidRequestError(
            f"only one of constraint, {', '.join(_GUIDED)} can be set; got {' and '.join(given)}", field=given[1]
        )


def guided(constraint: Constraint, *, structured: bool = False) -> dict[str, Any]:
    """The constraint as a field of the body: `guided_*`, or `structured_outputs` as recent releases of vLLM read it.

    A schema's `name` and `strict` have no place there: an answer is always held to the schema.
    """
    kind: str
    value: Any
    match constraint:
        case JsonSchema(schema=schema):
            kind, value = "json", schema
        case Regex(pattern=pattern):
            kind, value = "regex", pattern
        case Choice(options=options):
            kind, value = "choice", list(options)
        case Grammar(grammar=grammar):
            kind, value = "grammar", grammar
    return {"structured_outputs": {kind: value}} if structured else {f"guided_{kind}": value}


def is_between(value: object, low: float, high: float) -> bool:
    """Whether `value` is a number from `low` to `high`; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _check_values(sampling: Sampling, temperature: float) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not UNSET and not is_between(value, low, high):
            raise InvalidRequestError(f"{name} is a number from {low} to {high} at LLM Engine", field=name)
    top_k, top_p, limit = sampling.top_k, sampling.top_p, sampling.max_tokens
    if limit is not UNSET and limit < 1:
        raise InvalidRequestError("max_tokens is a whole number from 1 up", field="max_tokens")
    if top_k is not UNSET and (top_k == 0 or top_k < -1):
        raise InvalidRequestError("top_k is a whole number from 1 up, or -1 for all tokens", field="top_k")
    if top_p is not UNSET and not 0 < top_p <= 1:
        raise InvalidRequestError("top_p is a number above 0, and 1 at the most", field="top_p")
    if (temperature if sampling.temperature is UNSET else sampling.temperature) == 0:
        if top_k is not UNSET and top_k != -1:
            raise InvalidRequestError("top_k is -1 or left out where temperature is 0", field="top_k")
        if top_p is not UNSET and top_p != 1:
            raise InvalidRequestError("top_p is 1 or left out where temperature is 0", field="top_p")


def _check_framework(request: Request, framework: str, backend: str) -> None:
    def refuse(field: str, takes: str) -> UnsupportedError:
        return UnsupportedError(
            f"the {backend!r} backend does not support {field} at an endpoint that runs {framework}; {takes}",
            backend=backend,
            model=request.model,
            field=field,
        )

    for name, takers in _TAKEN_BY.items():
        value = getattr(request.sampling, name)
        if value is not UNSET and value is not False and framework not in takers:
            raise refuse(name, f"{', '.join(sorted(takers))} {'does' if len(takers) == 1 else 'do'}")
    if framework != "vllm":
        if request.constraint is not None:
            raise refuse(type(request.constraint).__name__, "vllm does")
        for name in _GUIDED:
            if request.extra.get(name) is not None:
                raise refuse(name, "vllm does")
    stop = request.sampling.stop
    if framework == "deepspeed" and isinstance(stop, tuple) and len(stop) > 1:
        raise refuse("stop", "it heeds one text alone, so give one")
