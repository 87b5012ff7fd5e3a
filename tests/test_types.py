"""The nouns: what they refuse, and what their reprs keep to themselves."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest
from msgspec import UNSET

import asyncllm
from asyncllm import (
    AudioPart,
    Choice,
    ConfigError,
    FilePart,
    ImagePart,
    InvalidRequestError,
    JsonSchema,
    Message,
    PromptCheck,
    Request,
    Response,
    ResponseChoice,
    Sampling,
    Secret,
    TextDelta,
    TextPart,
    Timeouts,
    Tool,
    ToolCall,
    Usage,
)

CANARY = "canary-7f3a-secret"


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="unknown role 'usr'") as caught:
        Message("usr", "hi")  # type: ignore[arg-type]

    assert caught.value.field == "role"


@pytest.mark.parametrize("arguments", [{}, {"url": "http://x/y.png", "data": b"png"}])
def test_an_image_part_takes_exactly_one_source(arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="exactly one of url= and data="):
        ImagePart(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{}, {"file_id": "file-1", "data": b"pdf"}])
def test_a_file_part_takes_exactly_one_source(arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="exactly one of data= and file_id="):
        FilePart(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [[], (), "red"])
def test_a_choice_needs_a_list_of_options(options: object) -> None:
    with pytest.raises(InvalidRequestError, match="at least one string"):
        Choice(options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", Timeouts.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "5"])
def test_a_deadline_that_cannot_be_right_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        Timeouts(**{name: value})  # type: ignore[arg-type]

    assert caught.value.field == name


def test_an_unset_option_never_becomes_a_null() -> None:
    assert msgspec.json.encode(Sampling(temperature=0.0)) == b'{"temperature":0.0}'
    assert Sampling().max_tokens is UNSET


def test_unknown_usage_is_not_zero() -> None:
    assert Usage(input_tokens=3).output_tokens is None
    assert Usage(input_tokens=3).total_tokens is None
    assert Usage(input_tokens=3, output_tokens=0).total_tokens == 3


def test_a_prompt_check_is_truthy_exactly_if_prompt_and_answer_fit() -> None:
    assert PromptCheck(tokens=90, limit=100, max_tokens=10)
    assert not PromptCheck(tokens=90, limit=100, max_tokens=11)
    assert PromptCheck(tokens=10**9, limit=None)


def test_a_reply_without_choices_reads_as_empty() -> None:
    reply = Response()

    assert (reply.text, reply.tool_calls, reply.finish_reason, reply.reasoning) == ("", (), None, None)


def test_tool_arguments_are_decoded_and_nothing_means_none() -> None:
    assert ToolCall("1", "f", '{"city": "Paris"}').parse_arguments() == {"city": "Paris"}
    assert ToolCall("1", "f", "").parse_arguments() == {}


PRIVATE = [
    Message("user", CANARY, reasoning=CANARY, refusal=CANARY),
    TextPart(CANARY),
    ImagePart(url=f"https://x/{CANARY}"),
    ImagePart(data=CANARY.encode()),
    AudioPart(CANARY.encode()),
    FilePart(data=CANARY.encode(), filename=CANARY),
    ToolCall("1", "f", CANARY),
    Tool("f", CANARY, {"x": CANARY}),
    JsonSchema({"title": CANARY}),
    Choice([CANARY]),
    asyncllm.Regex(CANARY),
    asyncllm.Grammar(CANARY),
    Request(model="m", messages=(Message("user", CANARY),), extra={"x": CANARY}),
    Request(model="m", prompt=CANARY),
    Response(choices=(ResponseChoice(0, Message("assistant", CANARY)),), parsed=CANARY, body=CANARY.encode()),
    TextDelta(CANARY),
    asyncllm.ReasoningDelta(CANARY),
    asyncllm.RefusalDelta(CANARY),
    asyncllm.ToolCallDelta(arguments=CANARY),
    asyncllm.LogprobsDelta((asyncllm.TokenLogprob(CANARY, -1.0),)),
    asyncllm.Started(body=CANARY.encode()),
    Secret(CANARY),
    asyncllm.backend.Config(backend="x", api_key=Secret(CANARY), options={"x": CANARY}),
    asyncllm.backend.HttpCall(url="http://x", body=CANARY.encode(), headers={"x": CANARY}),
]


@pytest.mark.parametrize("noun", PRIVATE, ids=lambda noun: type(noun).__name__)
def test_no_repr_shows_content(noun: object) -> None:
    rich: object = getattr(noun, "__rich_repr__", list)()

    assert CANARY not in repr(noun)
    assert CANARY not in str(noun)
    assert CANARY not in f"{rich}"


def test_a_secret_is_neither_pickled_nor_printed() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(CANARY))
    assert copy.deepcopy(Secret(CANARY)).reveal() == CANARY


@pytest.mark.parametrize("key", ["", " key-7f3a", "key-7f3a\n", "key-7f3a\r\nX-Evil: 1", "schlüssel-7f3a"])
def test_a_key_that_cannot_be_one_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(key)

    assert "7f3a" not in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(asyncllm.errors).values()
        if isinstance(kind, type) and issubclass(kind, asyncllm.AsyncLLMError)
    ],
)
def test_every_error_pickles_and_copies_with_its_facts(kind: type[asyncllm.AsyncLLMError]) -> None:
    error = kind("went wrong", status=418, code="teapot", retry_after_s=2, partial=Response(model="m"))

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.status, again.code, again.retry_after_s, again.message) == (418, "teapot", 2, "went wrong")
        assert again.partial == Response(model="m")


def test_errors_carry_the_builtin_bases_that_people_catch() -> None:
    assert issubclass(asyncllm.APITimeoutError, TimeoutError)
    assert issubclass(asyncllm.ConfigError, ValueError)
    assert issubclass(asyncllm.WrongLoopError, RuntimeError)
