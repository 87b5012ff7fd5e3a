"""A call's arguments become one `Request`, or an error that names the argument at fault before anything is sent."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

from asyncllm.backend import EmbedRequest
from asyncllm.dialect import message_from_dict, tool_from_dict
from asyncllm.errors import InvalidRequestError
from asyncllm.tools import FunctionTool
from asyncllm.typed.output import Output
from asyncllm.types import (
    Constraint,
    Message,
    Request,
    Sampling,
    SamplingOptions,
    Timeouts,
    Tool,
    ToolChoice,
    are_token_ids,
)

__all__ = [
    "CallOptions",
    "Model",
    "Prompt",
    "as_tools",
    "chat_request",
    "check_names",
    "completion_request",
    "converted",
    "embed_request",
    "extra_of",
    "output_of",
    "repairs_of",
    "timeouts_of",
]

T = TypeVar("T")

Prompt: TypeAlias = str | Sequence[Message | Mapping[str, Any]]
"""A user's text, or the turns of a conversation: messages, or dicts in OpenAI's form."""

Model: TypeAlias = str | Sequence[str]
"""`backend:model`, an alias, a deployment, or several of these in order of preference."""


class CallOptions(SamplingOptions, total=False):
    """Keyword arguments of `chat`, `stream`, `stream_text` and `complete`, beside those of `Sampling`."""

    model: Model
    """Where to send the call, over the client's default."""
    system: str
    """Instructions put before the conversation."""
    tools: Sequence[Tool | Mapping[str, Any] | Callable[..., Any]]
    """Functions that the model may ask for: Python functions, `Tool`, or dicts in OpenAI's form. A chat tells the model
    of them and calls none; see `run_tools`."""
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    constraint: Constraint
    """What the answer must be; one at a time, and not beside `output_type`."""
    output_type: Any
    """A type that msgspec can decode, such as a `msgspec.Struct`, a dataclass, a `TypedDict` or a union: constrains the
    answer to its schema, and fills `Response.parsed`. A backend that cannot be held to a schema is asked in words. With
    `n` above one, the first answer is parsed."""
    repairs: int
    """How often, at the most, a chat whose answer is not of the `output_type` shows the model its answer with the error
    and asks again: 1 unless said, 0 never. Usage and cost of all rounds are added up."""
    sampling: Sampling
    """Sampling options as one object; single options given beside it win."""
    timeouts: Timeouts
    """Deadlines of this call, over the client's."""
    extra: Mapping[str, Any]
    """Options that only the provider knows, sent as they are."""
    idempotency_key: str
    """A name for this call that a server can know it by when it comes again; by default a new one is made."""


_SAMPLING = frozenset(Sampling.__struct_fields__)
_OPTIONS = CallOptions.__required_keys__ | CallOptions.__optional_keys__
_CHAT_ONLY = ("system", "tools", "tool_choice", "parallel_tool_calls", "repairs")
_NO_SAMPLING = Sampling()
_REPAIRS = 1
"""One more try mends a slip and at the most doubles what a call costs; a type that a model cannot keep to is better
seen than paid for again and again."""


def chat_request(
    prompt: Prompt, options: CallOptions, *, stream: bool, timeouts: Timeouts, output: Output | None = None
) -> Request:
    """The request of a chat, its model left empty. `output` is what `output_of` says of it, where that is at hand.

    Raises `InvalidRequestError`.
    """
    check_names(options)
    return Request(
        model="",
        messages=_with_system(_messages(prompt), options.get("system")),
        sampling=_sampling(options),
        tools=tuple(tool.plain() if isinstance(tool, FunctionTool) else tool for tool in as_tools(options)),
        tool_choice=_checked(options, "tool_choice", str),
        parallel_tool_calls=_checked(options, "parallel_tool_calls", bool),
        constraint=_constraint(options, output or output_of(options)),
        stream=stream,
        timeouts=timeouts_of(options, timeouts),
        extra=extra_of(options),
        idempotency_key=_idempotency_key(options),
    )


def completion_request(
    prompt: str | Sequence[int],
    options: CallOptions,
    *,
    stream: bool,
    timeouts: Timeouts,
    output: Output | None = None,
) -> Request:
    """The request of a text completion, as `chat_request`. Raises `InvalidRequestError`."""
    check_names(options)
    for name in _CHAT_ONLY:
        if name in options:
            raise InvalidRequestError(f"complete has no {name}: it continues a text; use chat", field=name)
    return Request(
        model="",
        prompt=_plain_prompt(prompt),
        sampling=_sampling(options),
        constraint=_constraint(options, output or output_of(options)),
        stream=stream,
        timeouts=timeouts_of(options, timeouts),
        extra=extra_of(options),
        idempotency_key=_idempotency_key(options),
    )


def embed_request(
    texts: str | Sequence[str],
    dimensions: int | None,
    timeouts: Timeouts | None,
    extra: Mapping[str, Any] | None,
    default: Timeouts,
) -> EmbedRequest:
    """The request of `embed`, its model left empty; `default` are its deadlines where `timeouts` is `None`.

    Raises `InvalidRequestError`.
    """
    if not isinstance(texts, Iterable):
        raise InvalidRequestError(f"texts is a text or a list of texts, not a {type(texts).__name__}", field="texts")
    rows = [texts] if isinstance(texts, str) else list(texts)
    if not rows:
        raise InvalidRequestError("there is nothing to embed: texts is an empty list", field="texts")
    for position, text in enumerate(rows):
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(f"texts[{position}] is not a text, or is empty", field=f"texts[{position}]")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise InvalidRequestError("dimensions is a whole number from 1 up", field="dimensions")
    return EmbedRequest(
        model="",
        texts=tuple(rows),
        dimensions=UNSET if dimensions is None else dimensions,
        timeouts=timeouts_of({} if timeouts is None else {"timeouts": timeouts}, default),
        extra={} if extra is None else extra_of({"extra": extra}),
    )


def output_of(options: CallOptions) -> Output | None:
    """What the call's `output_type` asks for, if it has one."""
    return Output(options["output_type"]) if "output_type" in options else None


def repairs_of(options: CallOptions, *, stream: bool) -> int:
    """How often the answer may be asked for again. Raises `InvalidRequestError`."""
    if "repairs" not in options:
        return _REPAIRS
    repairs = options["repairs"]
    if type(repairs) is not int or repairs < 0:
        raise InvalidRequestError("repairs is a whole number from 0 up", field="repairs")
    if "output_type" not in options:
        raise InvalidRequestError("repairs are of an answer that has an output_type; give one", field="repairs")
    if stream and repairs:
        raise InvalidRequestError(
            "a stream is not repaired: its pieces have been read by then; use chat, or repairs=0", field="repairs"
        )
    return repairs


def check_names(options: Mapping[str, Any], known: frozenset[str] = _OPTIONS) -> None:
    """Raise `InvalidRequestError` for the first option that is not among `known`."""
    if options.keys() <= known:
        return
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InvalidRequestError(
                f"unknown option {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "; what only the provider knows goes into extra={...}"),
                field=name,
            )


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequestError("the prompt is empty", field="prompt")
        return (Message("user", prompt),)
    if not isinstance(prompt, Sequence):
        raise InvalidRequestError(
            f"a prompt is a text or a list of messages, not a {type(prompt).__name__}", field="prompt"
        )
    if not prompt:
        raise InvalidRequestError("the prompt is an empty list; it needs at least one message", field="prompt")
    return tuple(_message(message, f"prompt[{position}]") for position, message in enumerate(prompt))


def _with_system(messages: tuple[Message, ...], system: object) -> tuple[Message, ...]:
    if system is None:
        return messages
    if not isinstance(system, str) or not system:
        raise InvalidRequestError("system is a text that is not empty", field="system")
    return (Message("system", system), *messages)


def _message(message: object, field: str) -> Message:
    if isinstance(message, Message):
        return message
    if isinstance(message, Mapping):
        return message_from_dict(cast("Mapping[str, Any]", message), field)
    raise InvalidRequestError(f"{field} is a {type(message).__name__}, not a Message or a dict", field=field)


def _plain_prompt(prompt: object) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequestError("the prompt is empty", field="prompt")
        return prompt
    tokens = cast("Sequence[Any]", prompt) if isinstance(prompt, Sequence) else ()
    if tokens and are_token_ids(tokens):
        return tuple(tokens)
    raise InvalidRequestError("complete takes a text or a list of token ids; use chat for messages", field="prompt")


def _sampling(options: CallOptions) -> Sampling:
    # Unset is the absence of a value, and absent is what it becomes.
    given: dict[str, Any] = {name: value for name, value in options.items() if name in _SAMPLING and value is not UNSET}
    if "sampling" in options:
        whole = options["sampling"]
        if not isinstance(whole, Sampling):
            raise InvalidRequestError("sampling is a Sampling; single options are keyword arguments", field="sampling")
        given = msgspec.to_builtins(whole) | given
    if not given:
        return _NO_SAMPLING
    return converted(given, Sampling, "sampling", where_none="leave it out for the backend's default")


def converted(
    given: Mapping[str, Any], kind: type[T], what: str, *, within: str = "", where_none: str | None = None
) -> T:
    """`given`, which is the `what` of a call, as a `kind`; `where_none` says what to do about a field that is `None`.

    Raises `InvalidRequestError` naming the field at fault, after `within`.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidRequestError):
            raise error.__cause__ from None
        place = re.search(r"`\$\.(\w+)|field `(\w+)`", str(error))
        name = (place[1] or place[2]) if place else ""
        field = f"{within}{name}" if name else what
        reason = str(error).partition(" - at ")[0]
        hint = f"; {where_none}" if where_none and given.get(name, 0) is None else ""
        raise InvalidRequestError(f"{field}: {reason[:1].lower()}{reason[1:]}{hint}", field=field) from None


def as_tools(options: CallOptions) -> tuple[Tool, ...]:
    """The tools of a call, functions described. Raises `InvalidRequestError`."""
    if "tools" not in options:
        return ()
    tools: object = options["tools"]
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise InvalidRequestError("tools is a list of Tool", field="tools")
    made: list[Tool] = []
    for position, tool in enumerate(cast("Sequence[object]", tools)):
        if isinstance(tool, Mapping):
            made.append(tool_from_dict(cast("Mapping[str, Any]", tool), f"tools[{position}]"))
        elif isinstance(tool, Tool):
            made.append(tool)
        elif callable(tool):
            made.append(FunctionTool.of(tool))
        else:
            raise InvalidRequestError(f"tools[{position}] is not a Tool", field="tools")
    return tuple(made)


def _constraint(options: CallOptions, output: Output | None) -> Constraint | None:
    constraint = options.get("constraint")
    if output is not None:
        if constraint is not None:
            raise InvalidRequestError("give constraint or output_type, not both: either decides", field="constraint")
        return output.constraint
    if constraint is not None and not isinstance(constraint, Constraint):
        raise InvalidRequestError(
            f"constraint is exactly one of JsonSchema, Regex, Choice and Grammar, not a {type(constraint).__name__}",
            field="constraint",
        )
    return constraint


def timeouts_of(options: Mapping[str, Any], default: Timeouts) -> Timeouts:
    """The deadlines of a call. Raises `InvalidRequestError`."""
    timeouts = options.get("timeouts", default)
    if not isinstance(timeouts, Timeouts):
        raise InvalidRequestError("timeouts is a Timeouts, as in Timeouts(total_s=30)", field="timeouts")
    return timeouts


def extra_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What only the provider knows. Raises `InvalidRequestError`."""
    if "extra" not in options:
        return {}
    extra: object = options["extra"]
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in cast("Mapping[object, Any]", extra)):
        raise InvalidRequestError("extra is a dict of the provider's option names to values", field="extra")
    return dict(cast("Mapping[str, Any]", extra))


def _idempotency_key(options: CallOptions) -> str:
    key = options.get("idempotency_key")
    if key is None:
        return os.urandom(16).hex()
    if not isinstance(key, str) or not 0 < len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidRequestError(
            "idempotency_key is a text of at most 255 printable ASCII characters", field="idempotency_key"
        )
    return key


def _checked(options: CallOptions, name: str, kind: type[T]) -> T | UnsetType:
    value = cast("Mapping[str, object]", options).get(name, UNSET)
    if value is UNSET or isinstance(value, kind):
        return value
    raise InvalidRequestError(f"{name} is a {kind.__name__}, not a {type(value).__name__}", field=name)
