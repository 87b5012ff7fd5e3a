"""Python functions as tools: what a model is told of one, and the call of it with what the model wrote.

The schema comes from the signature, by msgspec: every parameter needs a type, one with a default may be left out. What
describes a parameter is, in this order, `Annotated[..., "text"]`, `msgspec.Meta(description=...)`, and the entry of the
docstring's `Args:` section; what describes the function is the docstring's first paragraph.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Self, cast

import msgspec
from msgspec import UNSET, UnsetType

from asyncllm.errors import InvalidRequestError
from asyncllm.typed.schemas import schema_of, strict_form
from asyncllm.types import Noun, Tool

__all__ = ["FinalResult", "FunctionTool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECTION = re.compile(r"(?:Args|Arguments|Parameters):\s*")
_ENTRY = re.compile(r"(\s+)\**(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


class FinalResult(Noun, frozen=True):
    """What a tool returns to end the run with: the model is not asked again."""

    value: Any

    _private = frozenset({"value"})


class FunctionTool(Tool, frozen=True, kw_only=True):
    """A tool that is a Python function: `FunctionTool.of(function)`."""

    function: Callable[..., Any]
    """Called with keyword arguments; a plain function in a thread, a coroutine function on the event loop."""
    arguments: Any = None
    """The type that arguments are decoded to; `None` takes any object."""

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        strict: bool | UnsetType = UNSET,
    ) -> Self:
        """Describe `function`; what is given wins over what its signature and docstring say.

        With `parameters`, a JSON schema of your own, the arguments are passed on as they are decoded. `strict=True`
        asks for OpenAI's strict mode, in which no parameter has a default but `None`.

        Raises `InvalidRequestError` for a function that cannot be described, naming the parameter.
        """
        name = name if name is not None else str(getattr(function, "__name__", ""))
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _bad(
                f"the tool {str(name)[:40]!r} needs a name of letters, digits, _ and -: FunctionTool.of(f, name=...)"
            )
        if parameters is not None and not isinstance(parameters, Mapping):
            raise _bad(f"the parameters of {name} are a JSON schema, a dict")
        doc = inspect.cleandoc(_code(function).__doc__ or "")
        kind, schema = None, dict(parameters or {})
        if parameters is None:
            kind, schema = _signature(function, name, _described(doc))
        if strict is True:
            tight = strict_form(schema)
            if tight is None:
                raise _bad(f"the parameters of {name} have no strict form: one may be left out, or is bounded or free")
            schema = tight
        told = description or " ".join(doc.split("\n\n")[0].split())
        return cls(name, told or UNSET, schema, strict, function=function, arguments=kind)

    def plain(self) -> Tool:
        """What the model is told."""
        return Tool(self.name, self.description, self.parameters, self.strict)

    def decode(self, arguments: str) -> dict[str, Any]:
        """The keyword arguments in the model's JSON; those that it left out are not there.

        Raises `msgspec.DecodeError`, which may quote the arguments.
        """
        text = arguments.strip() or "{}"
        if self.arguments is None:
            return msgspec.json.decode(text, type=dict[str, Any])
        given = msgspec.json.decode(text, type=self.arguments)
        return {name: value for name, value in msgspec.structs.asdict(given).items() if value is not UNSET}

    async def call(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function. Raises what it raises.

        A thread cannot be stopped: where the wait is cancelled, a plain function runs to its end unheard.
        """
        if inspect.iscoroutinefunction(_code(self.function)):
            return await self.function(**arguments)
        result = await asyncio.to_thread(_without_stop, self.function, arguments)
        return await result if inspect.isawaitable(result) else result


def _without_stop(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return function(**arguments)
    except StopIteration as error:  # which does not pass through a future: the wait would never end
        raise RuntimeError("the function raised StopIteration") from error


def _signature(function: Callable[..., Any], name: str, described: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """The type that takes the arguments, and its schema."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    told: dict[str, dict[str, Any]] = {}
    for parameter, hint in _parameters(function, name):
        notes = told[parameter.name] = {}
        text = _annotation(hint)
        if text is not None:
            notes["description"] = text
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
            continue
        fields.append((parameter.name, hint | UnsetType, UNSET))
        try:
            notes["default"] = msgspec.to_builtins(parameter.default)
        except TypeError:
            pass  # a marker of the function's own; the model may leave it out all the same
    try:
        kind = msgspec.defstruct(name.replace("-", "_"), fields, kw_only=True, forbid_unknown_fields=True)
        schema = schema_of(kind, field="tools")
    except (
        TypeError,
        ValueError,
        RuntimeError,
        InvalidRequestError,
    ) as error:  # a name with two underscores is the last
        raise _bad(f"the parameters of {name} have no JSON schema: {error}") from None
    schema.pop("title", None)
    for parameter_name, notes in told.items():
        shown = schema["properties"][parameter_name]
        if parameter_name in described:
            shown.setdefault("description", described[parameter_name])
        shown |= notes
    return kind, schema


def _parameters(function: Callable[..., Any], name: str) -> Iterator[tuple[inspect.Parameter, Any]]:
    """What may be given by name, with its type."""
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_code(function), include_extras=True)
    except (TypeError, ValueError) as error:
        raise _bad(f"the signature of {name} cannot be read: {error}; give parameters=") from None
    except NameError as error:
        raise _bad(f"a type in the signature of {name} is not known where it is defined: {error}") from None
    bound: Mapping[str, Any] = function.keywords if isinstance(function, functools.partial) else {}
    for parameter in signature.parameters.values():
        if parameter.name in bound:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise _bad(f"the parameter {parameter.name!r} of {name} cannot be given by name; a tool's parameters are")
        if parameter.name not in hints:
            raise _bad(f"the parameter {parameter.name!r} of {name} has no type; the model has to know one")
        yield parameter, hints[parameter.name]


def _annotation(hint: Any) -> str | None:
    """The description in `Annotated[..., "text"]`; what stands in a `Meta` msgspec puts into the schema itself."""
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((note for note in typing.get_args(hint)[1:] if isinstance(note, str)), None)


def _described(doc: str) -> dict[str, str]:
    """The entries of a docstring's `Args:` section, as Google's style guide has it."""
    found: dict[str, list[str]] = {}
    lines = iter(doc.splitlines())
    if not any(_SECTION.fullmatch(line) for line in lines):  # which leaves what comes after it
        return {}
    margin: str | None = None
    last = ""
    for line in lines:
        if line and not line[0].isspace():
            break
        entry = _ENTRY.fullmatch(line)
        if entry is not None and entry[1] == (margin or entry[1]):
            margin, last = entry[1], entry[2]
            found[last] = [entry[3]]
        elif last and line.strip():
            found[last].append(line.strip())
    return {name: " ".join(parts) for name, parts in found.items()}


def _code(function: Callable[..., Any]) -> Callable[..., Any]:
    """What has the signature's types and the docstring: the function itself, inside a partial or an object."""
    while isinstance(function, functools.partial):
        function = cast("functools.partial[Any]", function).func
    is_code = inspect.isroutine(function) or inspect.isclass(function)
    return function if is_code else cast("Callable[..., Any]", getattr(function, "__call__"))  # noqa: B004, B009


def _bad(text: str) -> InvalidRequestError:
    return InvalidRequestError(text, field="tools")
