"""Python functions as tools: what a model is told of them, and how what it wrote becomes a call."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

import asyncllm
from asyncllm import Client, Finished, FunctionTool, TextDelta, Tool
from asyncllm.testing import ScriptedBackend


class Place(msgspec.Struct):
    city: str
    country: str = "France"


def weather(
    city: Annotated[str, "the city's name"],
    unit: Literal["C", "F"] = "C",
    days: Annotated[int, Meta(ge=1, le=7)] = 1,
    near: Place | None = None,
) -> str:
    """Look up the weather
    of a city.

    It is always fine.

    Args:
        city: not this
        unit (str): Celsius or
            Fahrenheit
        days: how many days
    Returns:
        near: not a parameter
    """
    return f"{city} {unit} {days} {near}"


async def test_a_functions_schema_is_that_of_its_signature_and_docstring() -> None:
    tool = FunctionTool.of(weather)

    assert (tool.name, tool.description) == ("weather", "Look up the weather of a city.")
    assert isinstance(tool.parameters, dict)
    properties = tool.parameters["properties"]
    assert tool.parameters["required"] == ["city"]
    assert tool.parameters["additionalProperties"] is False
    assert properties["city"] == {"type": "string", "description": "the city's name"}
    assert properties["unit"] == {"enum": ["C", "F"], "default": "C", "description": "Celsius or Fahrenheit"}
    assert properties["days"] == {
        "type": "integer", "minimum": 1, "maximum": 7, "default": 1, "description": "how many days"
    }  # fmt: skip
    assert properties["near"]["default"] is None
    assert tool.parameters["$defs"]["Place"]["properties"]["city"] == {"type": "string"}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"city": "Rome"}', {"city": "Rome"}),
        ('{"city": "Rome", "near": {"city": "Pisa"}}', {"city": "Rome", "near": Place("Pisa")}),
        ('{"city": "Rome", "near": null, "days": 7}', {"city": "Rome", "near": None, "days": 7}),
    ],
)
def test_arguments_become_values_of_their_types_and_what_is_left_out_stays_out(arguments: str, given: Any) -> None:
    assert FunctionTool.of(weather).decode(arguments) == given


@pytest.mark.parametrize(
    "arguments",
    ["{}", '{"city": 5}', '{"city": "a", "days": 8}', '{"city": "a", "town": "b"}', '{"city"', "[]", '{"city":"a"} x'],
)
def test_arguments_that_do_not_fit_are_refused(arguments: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        FunctionTool.of(weather).decode(arguments)


def test_a_function_without_parameters_takes_an_empty_text() -> None:
    def now() -> str:
        return "noon"

    tool = FunctionTool.of(now)

    assert tool.parameters == {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert tool.decode("") == tool.decode("{}") == {}


def test_a_default_that_is_no_json_is_not_told() -> None:
    marker: Any = object()

    def find(text: str, limit: int = marker) -> bool:
        return limit is marker and bool(text)

    tool = FunctionTool.of(find)

    assert isinstance(tool.parameters, dict)
    assert tool.parameters["properties"]["limit"] == {"type": "integer"}


async def test_plain_functions_run_in_a_thread_and_coroutine_functions_on_the_loop() -> None:
    def plain() -> int:
        return threading.get_ident()

    async def coroutine() -> int:
        return threading.get_ident()

    assert await FunctionTool.of(plain).call({}) != threading.get_ident()
    assert await FunctionTool.of(coroutine).call({}) == threading.get_ident()
    assert await FunctionTool.of(lambda: coroutine(), name="later").call({}) == threading.get_ident()


class Shop:
    """Not this."""

    async def price(self, item: str) -> float:
        """What it costs."""
        return float(len(item))

    def __call__(self, item: str) -> str:
        """Buy it."""
        return f"bought {item}"


async def test_methods_partials_and_callable_objects_are_functions_too() -> None:
    shop = Shop()
    price = FunctionTool.of(shop.price)
    buy = FunctionTool.of(shop, name="buy")
    fixed = FunctionTool.of(functools.partial(weather, unit="F"), name="weather_f")

    assert (price.name, price.description) == ("price", "What it costs.")
    assert await price.call(price.decode('{"item": "abc"}')) == 3.0
    assert buy.description == "Buy it."
    assert await buy.call({"item": "x"}) == "bought x"
    assert isinstance(fixed.parameters, dict)
    assert "unit" not in fixed.parameters["properties"]
    assert await fixed.call({"city": "Rome"}) == "Rome F 1 None"


async def test_a_schema_of_ones_own_takes_any_object() -> None:
    def pass_on(**arguments: Any) -> Mapping[str, Any]:
        return arguments

    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    tool = FunctionTool.of(pass_on, name="search", description="Find it.", parameters=schema)

    assert tool.plain() == Tool("search", "Find it.", schema)
    assert await tool.call(tool.decode('{"q": "x", "more": 1}')) == {"q": "x", "more": 1}


def test_strict_mode_closes_the_schema_or_says_that_it_cannot() -> None:
    def find(text: str, limit: int | None = None) -> str:
        return f"{text}{limit}"

    tool = FunctionTool.of(find, strict=True)

    assert isinstance(tool.parameters, dict)
    assert (tool.strict, tool.parameters["required"]) == (True, ["text", "limit"])
    with pytest.raises(asyncllm.InvalidRequestError, match="no strict form"):
        FunctionTool.of(weather, strict=True)


def untyped(a, b: int = 1):  # type: ignore[no-untyped-def]
    return a


def positional(a: int, /) -> None: ...


def many(*texts: str) -> None: ...


def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def odd(a: threading.Lock) -> None: ...


def test_a_description_that_is_none_is_refused() -> None:
    def private(*, __x: int) -> None: ...

    wrong: list[tuple[Any, dict[str, Any]]] = [
        (private, {}),
        (weather, {"name": 5}),
        (weather, {"parameters": 5}),
    ]
    for function, options in wrong:
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            FunctionTool.of(function, **options)
        assert caught.value.field == "tools"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (untyped, "'a' of untyped has no type"),
        (positional, "'a' of positional cannot be given by name"),
        (many, "'texts' of many cannot be given by name"),
        (unknown, "Nowhere"),
        (odd, "no JSON schema"),
        (lambda: 1, "needs a name"),
        (print, "print"),
        (Shop(), "needs a name"),
    ],
)
def test_a_function_that_no_model_could_call_is_refused_by_its_parameter(
    function: Callable[..., Any], told: str
) -> None:
    with pytest.raises(asyncllm.InvalidRequestError, match=told) as caught:
        FunctionTool.of(function)

    assert caught.value.field == "tools"


async def test_a_chat_tells_the_model_of_functions_and_calls_none() -> None:
    backend = ScriptedBackend([[TextDelta("x"), Finished("stop")]])

    async with Client(backend=backend) as client:
        await client.chat("hi", tools=[weather, FunctionTool.of(weather, name="w"), Tool("t")])

    told = backend.requests[0].tools
    assert [tool.name for tool in told] == ["weather", "w", "t"]
    assert {type(tool) for tool in told} == {Tool}
