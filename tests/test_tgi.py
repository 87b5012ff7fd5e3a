"""The tgi backend over real sockets: what it sends in TGI's words, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import (
    APIError,
    APIStatusError,
    Choice,
    Client,
    ConfigError,
    Event,
    Finished,
    Grammar,
    InternalServerError,
    InvalidRequestError,
    JsonSchema,
    Message,
    NotFoundError,
    OverloadedError,
    Regex,
    ResponseValidationError,
    StreamInterrupted,
    TextDelta,
    Tool,
    UnprocessableEntityError,
    UnsupportedError,
)
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status, openai_chunks
from asyncllm_tgi.stops import Cut
from talks import paths, talking
from tgi_server import END, INFO, answer, event, failed, generated, served, streamed, tgi, token

PROMPT = "my canary is blue"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "boolean"}}}


def serving(
    script: Callable[[SeenRequest], Sequence[Op]] | Sequence[Op] = tgi, *, model: str = "some-model", **given: Any
) -> AbstractAsyncContextManager[tuple[FaultyServer, Client]]:
    """A server, and a client of it that tries once."""
    return talking(script, f"tgi:{model}", **given)


async def sent(*, chat: bool = False, **options: Any) -> dict[str, Any]:
    """The body of one call with `options`."""
    async with serving() as (server, client):
        await (client.chat if chat else client.complete)("Hello there", **options)
    body: dict[str, Any] = server.requests[0].json()
    return body


async def parameters(**options: Any) -> dict[str, Any]:
    """TGI's parameters of one completion with `options`, without those of every call."""
    body = await sent(**options)
    assert body.keys() == {"inputs", "parameters"}
    assert body["inputs"] == "Hello there"
    assert body["parameters"].pop("details") is True
    return dict(body["parameters"])


async def refusal(*, chat: bool = False, stream: bool = False, **options: Any) -> Exception:
    """What a call with `options` raises, having sent nothing."""
    async with serving() as (server, client):
        with pytest.raises((ConfigError, UnsupportedError)) as caught:
            if stream:
                async with client.stream_complete("Hello", **options):
                    pass
            else:
                await (client.chat if chat else client.complete)("Hello", **options)
    assert not server.requests
    return caught.value


async def events_of(client: Client, **options: Any) -> list[Event]:
    async with client.stream_complete(PROMPT, **options) as stream:
        return [event async for event in stream]


async def failure_of(client: Client, *, chat: bool = False) -> APIError:
    with pytest.raises(APIError) as caught:
        async with (client.stream if chat else client.stream_complete)(PROMPT) as stream:
            async for _ in stream:
                pass
    assert PROMPT not in str(caught.value)
    return caught.value


# -- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0.5}, {"temperature": 0.5, "do_sample": True}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 0.9, "top_k": 5, "seed": 3}, {"do_sample": False, "seed": 3}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"top_p": 1}, {}),
        ({"temperature": 1, "top_p": 1.0}, {"temperature": 1.0, "do_sample": True}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"seed": 0}, {"seed": 0}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"frequency_penalty": -1.9}, {"frequency_penalty": -1.9}),
        ({"stop": "there"}, {"stop": ["there"]}),
        ({"stop": ["a", "b"], "include_stop_str_in_output": True}, {"stop": ["a", "b"]}),
        ({"logprobs": True}, {}),
        ({"top_logprobs": 2}, {"top_n_tokens": 2}),
        ({"logprobs": True, "top_logprobs": 0}, {}),
        ({"constraint": JsonSchema(SCHEMA)}, {"grammar": {"type": "json", "value": SCHEMA}}),
        ({"constraint": Regex("yes|no")}, {"grammar": {"type": "regex", "value": "yes|no"}}),
        (
            {"extra": {"watermark": True, "typical_p": 0.9, "truncate": 5, "adapter_id": "a", "best_of": 2}},
            {"watermark": True, "typical_p": 0.9, "truncate": 5, "adapter_id": "a", "best_of": 2},
        ),
        ({"max_tokens": 7, "extra": {"max_new_tokens": 8}}, {"max_new_tokens": 8}),
    ],
)
async def test_options_have_tgis_names_and_ways(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert await parameters(**options) == expected


async def test_a_chat_in_which_nothing_is_drawn_has_nothing_to_draw_from() -> None:
    body = await sent(chat=True, temperature=0, top_p=0.9)

    assert body["temperature"] == 0
    assert "top_p" not in body


async def test_an_event_that_holds_nothing_says_nothing() -> None:
    async with serving(streamed(b"data:\n\n", event(generated("hello")))) as (_, client):
        assert TextDelta("hello") in await events_of(client)


async def test_a_count_that_is_none_does_not_cost_the_answer() -> None:
    odd: dict[str, Any] = {"generated_tokens": "many", "input_length": 1.5}
    async with serving(served(answer("hello", **odd))) as (_, client):
        reply = await client.complete(PROMPT)
    async with serving(streamed(event({**generated("hello"), "details": {"finish_reason": "length", **odd}}))) as (
        _,
        client,
    ):
        events = await events_of(client)

    assert (reply.text, reply.usage.output_tokens) == ("hello", None)
    assert events[1:] == [TextDelta("hello"), Finished("length", "length")]


async def test_a_chat_is_sent_to_the_route_that_has_a_template() -> None:
    async with serving() as (server, client):
        reply = await client.chat("Hello there", system="Be brief", stop="x", max_tokens=9, temperature=0, top_p=1)

    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.json() == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello there"}],
        "stop": ["x"],
        "max_tokens": 9,
        "temperature": 0,
    }
    assert (reply.text, reply.finish_reason, reply.model) == ("Hello there", "stop", "some-model")


@pytest.mark.parametrize(
    ("constraint", "grammar"),
    [
        (JsonSchema(SCHEMA), {"type": "json", "value": SCHEMA}),
        (Regex("yes|no"), {"type": "regex", "value": "yes|no"}),
    ],
)
async def test_a_constraint_on_a_chat_is_a_grammar_too(constraint: Any, grammar: dict[str, Any]) -> None:
    body = await sent(chat=True, constraint=constraint)

    assert body["response_format"] == grammar


async def test_tools_are_sent_as_openai_has_them() -> None:
    tool = Tool("look_up", "Look a word up.", {"type": "object", "properties": {}})
    body = await sent(chat=True, tools=[tool], tool_choice="look_up")

    assert body["tools"][0]["function"]["name"] == "look_up"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look_up"}}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"constraint": Choice(("a", "b"))}, "Choice"),
        ({"constraint": Grammar("root ::= x")}, "Grammar"),
        ({"chat": True, "top_k": 5}, "top_k"),
        ({"chat": True, "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"chat": True, "n": 2}, "n"),
    ],
)
async def test_what_tgi_has_no_place_for_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    error = await refusal(**options)

    assert isinstance(error, UnsupportedError)
    assert error.field == field


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": -1}, "seed"),
        ({"frequency_penalty": -2}, "frequency_penalty"),
    ],
)
async def test_what_tgi_would_refuse_is_refused_here(chat: bool, options: dict[str, Any], field: str) -> None:
    error = await refusal(chat=chat, **options)

    assert isinstance(error, InvalidRequestError)
    assert error.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"stream": True, "extra": {"best_of": 2}}, "best_of"),
        ({"seed": 3, "extra": {"best_of": 2}}, "seed"),
        ({"stream": True, "extra": {"decoder_input_details": True}}, "decoder_input_details"),
    ],
)
async def test_what_tgis_own_parameters_exclude_is_refused_here(options: dict[str, Any], field: str) -> None:
    error = await refusal(**options)

    assert isinstance(error, InvalidRequestError)
    assert error.field == field


@pytest.mark.parametrize(("chat", "name"), [(True, "response_format"), (False, "grammar")])
async def test_a_constraint_and_one_in_extra_exclude_each_other(chat: bool, name: str) -> None:
    extra = {name: {"type": "regex", "value": "no"}}
    error = await refusal(chat=chat, constraint=Regex("yes"), extra=extra)

    assert isinstance(error, InvalidRequestError)
    assert error.field == "constraint"
    assert name in error.message


async def test_a_constraint_and_tools_exclude_each_other() -> None:
    error = await refusal(chat=True, tools=[Tool("f")], constraint=Regex("yes"))

    assert isinstance(error, InvalidRequestError)
    assert error.field == "constraint"


async def test_token_ids_are_no_text() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.complete([1, 2, 3])

    assert caught.value.field == "prompt"
    assert not server.requests


async def test_a_prompt_that_is_no_text_is_refused_by_what_it_is() -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError, match="surrogate"):
            await client.complete("half \ud83d")

    assert not server.requests


# -- what comes back -------------------------------------------------------------------------------------------------


async def test_a_plain_answer_has_text_usage_and_reason() -> None:
    reply_body = answer("blue", reason="stop_sequence", count=4, seed=3)
    async with serving(served(reply_body, x_prompt_tokens="17", x_request_id="r-1")) as (_, client):
        reply = await client.complete(PROMPT)

    assert (reply.text, reply.finish_reason, reply.choices[0].finish_reason_raw) == ("blue", "stop", "stop_sequence")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (17, 4)
    assert reply.request_id == "r-1"
    assert reply.raw["details"]["seed"] == 3


@pytest.mark.parametrize(
    ("header", "prefill", "expected"),
    [
        ("5", 2, 5),
        ("many", 2, 2),
        ("", 2, 2),
        ("", 0, None),
        ("9" * 5000, 0, None),
        ("\u0663".encode().decode("latin-1"), 0, None),
    ],
)
async def test_the_prompt_is_counted_by_header_or_by_its_tokens(
    header: str, prefill: int, expected: int | None
) -> None:
    tokens = [{"id": 1, "text": "a", "logprob": None}] * prefill
    async with serving(served(answer("blue", prefill=tokens), x_prompt_tokens=header)) as (_, client):
        reply = await client.complete(PROMPT)

    assert reply.usage.input_tokens == expected


@pytest.mark.parametrize(
    ("word", "reason"), [("length", "length"), ("eos_token", "stop"), ("stop_sequence", "stop"), ("other", None)]
)
async def test_each_reason_has_its_name(word: str, reason: str | None) -> None:
    def script(request: SeenRequest) -> Sequence[Op]:
        if request.path == "/generate":
            return served(answer("blue", reason=word))
        return streamed(event(generated("", reason=word)))

    async with serving(script) as (_, client):
        whole = await client.complete(PROMPT)
        async with client.stream_complete(PROMPT) as stream:
            async for _ in stream:
                pass

    for reply in (whole, stream.response):
        assert (reply.finish_reason, reply.choices[0].finish_reason_raw) == (reason, word)


async def test_special_tokens_are_no_text_and_have_no_probability() -> None:
    events = [
        event({"token": token("<s>", special=True)}),
        event({"token": token("The")}),
        event({"token": token(" sea", logprob=None)}),
        event(generated("The sea", reason="eos_token", count=4, length=9, last=END)),
    ]
    async with serving(streamed(*events)) as (_, client):
        async with client.stream_complete(PROMPT, logprobs=True) as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]
        reply = stream.response

    assert texts == ["The", " sea"]
    assert [one.token for one in reply.logprobs or ()] == ["The"]
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish_reason) == (9, 4, "stop")


async def test_probabilities_come_only_where_they_were_asked_for() -> None:
    async with serving() as (_, client):
        plain = await client.complete("one two")
        asked = await client.complete("one two", logprobs=True)
        rivals = await client.complete("one two", top_logprobs=1)

    assert plain.logprobs is None
    assert [(one.token, one.logprob, one.top) for one in asked.logprobs or ()] == [
        ("one", -0.5, ()),
        (" two", -0.5, ()),
    ]
    assert [[rival.token for rival in one.top] for one in rivals.logprobs or ()] == [["one"], [" two"]]


async def test_the_last_event_has_what_the_tokens_before_it_did_not_say() -> None:
    async with serving(streamed(event({"token": token("The")}), event(generated("The sea")))) as (_, client):
        async with client.stream_complete(PROMPT) as stream:
            async for _ in stream:
                pass

    assert stream.response.text == "The sea"


async def test_a_prompt_that_is_repeated_is_part_of_a_plain_answer_alone() -> None:
    extra = {"return_full_text": True}
    async with serving() as (_, client):
        reply = await client.complete("one two three", stop="two", extra=extra)
        async with client.stream_complete("one two three", stop="two", extra=extra) as stream:
            async for _ in stream:
                pass

    assert reply.text == "one two threeone "
    assert stream.response.text == "one "


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (" three", "one two"),  # where TGI stops, with the stop text in its answer
        ("wo", "one t"),
        ("w", "one t"),  # inside of a token, which TGI does not look into
        ("o three f", "one tw"),  # over the edges of tokens
        ("never", "one two three four"),
        ("four five", "one two three four"),  # what only begins one
    ],
)
async def test_an_answer_ends_before_its_first_stop_text(chat: bool, stream: bool, stop: str, text: str) -> None:
    async with serving() as (_, client):
        if stream:
            open_ = client.stream if chat else client.stream_complete
            async with open_("one two three four", stop=stop) as lent:
                async for _ in lent:
                    pass
            reply = lent.response
        else:
            reply = await (client.chat if chat else client.complete)("one two three four", stop=stop)

    assert (reply.text, reply.finish_reason) == (text, "stop")


async def test_an_answer_keeps_its_stop_text_where_that_is_asked_for() -> None:
    async with serving() as (_, client):
        texts = [
            (await call("one two three", stop=" two", include_stop_str_in_output=True)).text
            for call in (client.complete, client.chat)
        ]

    assert texts == ["one two", "one two"]


async def test_an_answer_that_is_cut_has_stopped_whatever_tgi_says_of_it() -> None:
    async with serving() as (_, client):
        reply = await client.complete("one two three four", stop="w", max_tokens=3)

    assert (reply.text, reply.finish_reason, reply.choices[0].finish_reason_raw) == ("one t", "stop", "length")


@given(
    text=st.text("ab", max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_cut_is_the_same_however_the_text_comes(text: str, cuts: list[int], stops: list[str]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    cut = Cut(stops)
    said = "".join(cut.feed(text[start:end]) for start, end in pairwise(edges)) + cut.close()

    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    longest = max((len(stop) for stop in stops if ends and text[: ends[0]].endswith(stop)), default=0)
    assert said == (text[: ends[0] - longest] if ends else text)
    assert cut.found is bool(ends)


# -- failures --------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, tuple[int, type[APIStatusError], bool]] = {
    "validation": (422, UnprocessableEntityError, False),
    "template_error": (422, UnprocessableEntityError, False),
    "missing_template_variable": (422, UnprocessableEntityError, False),
    "tool_error": (422, UnprocessableEntityError, False),
    "generation": (424, APIStatusError, False),
    "overloaded": (429, OverloadedError, True),
    "incomplete_generation": (500, InternalServerError, True),
}


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_is_the_same_by_status_and_inside_a_stream(kind: str, chat: bool) -> None:
    status, error_class, retryable = KINDS[kind]
    document = {"error": f"it broke at {PROMPT}", "error_type": kind}
    for script in (failed(status, kind, f"it broke at {PROMPT}"), streamed(event(document))):
        async with serving(script) as (_, client):
            error = await failure_of(client, chat=chat)

        assert type(error) is error_class
        assert (error.status, error.code, error.retryable) == (status, kind, retryable)
        assert error.message == "it broke at …"


async def test_an_error_after_some_tokens_has_what_had_come() -> None:
    script = streamed(event({"token": token("The")}), event({"error": "it broke", "error_type": "generation"}))
    async with serving(script) as (_, client):
        error = await failure_of(client)

    assert (error.status, error.code) == (424, "generation")
    assert error.partial is not None
    assert error.partial.text == "The"


async def test_a_stream_without_its_last_event_is_interrupted() -> None:
    async with serving(streamed(event({"token": token("The")}))) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, StreamInterrupted)
    assert error.partial is not None
    assert error.partial.text == "The"


@pytest.mark.parametrize("document", [b"{}", b"[]", b'{"token": 5}', b'{"index": 3}', b"half of {"])
async def test_an_event_that_is_neither_token_nor_error_is_refused(document: bytes) -> None:
    async with serving(streamed(b"data:" + document + b"\n\n")) as (_, client):
        assert isinstance(await failure_of(client), ResponseValidationError)


async def test_a_chat_that_ends_without_a_reason_is_interrupted() -> None:
    chunks = openai_chunks(["The"], finish=None)
    script = streamed(*(b"data:" + chunk + b"\n\n" for chunk in chunks), b"data:[DONE]\n\n")
    async with serving(script) as (_, client):
        error = await failure_of(client, chat=True)
        async with client.stream(PROMPT, tools=[Tool("f")]) as stream:
            async for _ in stream:
                pass

    assert isinstance(error, StreamInterrupted)
    assert error.partial is not None
    assert error.partial.text == "The"
    assert stream.response.text == "The"  # with tools, TGI ends in this way when the model takes none


# -- counting, models, health ----------------------------------------------------------------------------------------


async def test_a_chat_is_counted_with_its_tools() -> None:
    async with serving() as (server, client):
        check = await client.check_prompt("one two", system="three", tools=[Tool("f")], max_tokens=5, temperature=0)

    assert (check.tokens, check.limit, check.max_tokens) == (3, 2000, 5)
    asked = next(seen for seen in server.requests if seen.path == "/chat_tokenize").json()
    assert asked.keys() == {"model", "messages", "tools"}


@pytest.mark.parametrize(
    ("words", "room", "fits", "limit"),
    [(1000, 1000, True, 2000), (1000, 1001, False, 2000), (1001, 0, False, 1000), (3000, 0, False, 1000)],
)
async def test_a_prompt_must_keep_both_limits(words: int, room: int, fits: bool, limit: int) -> None:
    options: dict[str, Any] = {"max_tokens": room} if room else {}
    async with serving() as (_, client):
        check = await client.check_prompt("word " * (words - 1) + "word", **options)

    assert (bool(check), check.limit, check.tokens) == (fits, limit, words)


async def test_the_server_is_asked_for_its_limits_once() -> None:
    async with serving() as (server, client):
        await asyncio.gather(*(client.check_prompt("one two") for _ in range(5)))

    assert paths(server).count("GET /info") == 1


async def test_a_server_without_a_tokenizer_says_so() -> None:
    def script(request: SeenRequest) -> Sequence[Op]:
        return served(INFO) if request.path == "/info" else failed(404, "no fast tokenizer")

    async with serving(script) as (_, client):
        with pytest.raises(NotFoundError) as caught:
            await client.check_prompt("Hello")

    assert caught.value.code == "no fast tokenizer"


async def test_the_one_model_is_listed_with_the_tokens_that_it_takes() -> None:
    async with serving() as (_, client):
        (model,) = await client.list_models()

    assert (model.id, model.context_tokens) == ("some-model", 2000)


@pytest.mark.parametrize("call", ["chat", "complete", "check_prompt"])
async def test_a_model_that_is_not_served_is_an_error_that_names_the_one_that_is(call: str) -> None:
    async with serving(model="absent", verify_model=True) as (server, client):
        with pytest.raises(NotFoundError, match="it serves 'some-model'") as caught:
            await getattr(client, call)("Hello")

    assert (caught.value.model, caught.value.field) == ("absent", "model")
    assert paths(server) == ["GET /info"]


async def test_a_model_that_is_served_is_looked_for_once() -> None:
    async with serving(verify_model=True) as (server, client):
        await asyncio.gather(*(client.chat("Hello") for _ in range(5)))
        await client.complete("Hello")

    assert paths(server).count("GET /info") == 1
    assert paths(server)[0] == "GET /info"


async def test_a_model_that_comes_later_is_found_at_the_next_call() -> None:
    served_now = ["another"]

    def script(request: SeenRequest) -> Sequence[Op]:
        return served({**INFO, "model_id": served_now[-1]}) if request.path == "/info" else tgi(request)

    async with serving(script, verify_model=True) as (_, client):
        with pytest.raises(NotFoundError):
            await client.complete("Hello")
        served_now.append("some-model")
        assert (await client.complete("Hello")).text == "Hello"


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"model_id": 5}'])
async def test_an_info_that_cannot_be_read_is_an_error(body: bytes) -> None:
    async with serving([Status(200, body=body)]) as (_, client):
        with pytest.raises(ResponseValidationError, match="/info"):
            await client.list_models()


# -- addresses and keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1_or_not(suffix: str) -> None:
    async with serving(suffix=suffix) as (server, client):
        await client.complete("Hello")
        await client.chat("Hello")

    assert paths(server) == ["POST /generate", "POST /v1/chat/completions"]


async def test_the_hubs_token_goes_to_a_configured_address() -> None:
    env = {"HF_TOKEN": "hf_123456"}
    async with serving(env=env) as (server, client):
        await client.complete("Hello")
        await client.check_prompt("Hello")
        await client.is_alive()

    assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer hf_123456"}


async def test_the_hubs_token_goes_to_the_address_of_the_environment() -> None:
    async with FaultyServer(tgi) as server:
        env = {"HF_TOKEN": "hf_123456", "TGI_BASE_URL": server.url}
        async with Client(model="tgi:some-model", retry=None, env=env) as client:
            await client.complete("Hello")

    assert server.requests[0].headers["authorization"] == "Bearer hf_123456"


@pytest.mark.parametrize(("api_key", "sends"), [(None, False), ("k-123456", True)])
async def test_the_hubs_token_goes_to_no_address_that_nobody_configured(api_key: str | None, sends: bool) -> None:
    from asyncllm.testing import ScriptedReply, ScriptedTransport

    transport = ScriptedTransport([ScriptedReply(body=msgspec.json.encode(answer("Hello")))])
    env = {"HF_TOKEN": "hf_123456", "TGI_BASE_URL": " "}
    async with Client(model="tgi:m", api_key=api_key, retry=None, env=env, transport=transport) as client:
        await client.complete("Hello")

    (call,) = transport.calls
    assert call.url == "http://localhost:8080/generate"
    assert ("Authorization" in call.headers) is sends
    assert "hf_123456" not in str(dict(call.headers))


async def test_every_role_reaches_the_chat_in_order() -> None:
    messages = [Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("user", "d")]
    async with serving() as (server, client):
        await client.chat(messages)

    assert [message["role"] for message in server.requests[0].json()["messages"]] == [m.role for m in messages]
