"""The client over fakes and real sockets: what a call sends, gets, and does when it cannot."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    Client,
    Event,
    Finished,
    Message,
    Request,
    Retry,
    Sampling,
    Settings,
    Started,
    TextDelta,
    Timeouts,
    Usage,
    UsageReport,
)
from asyncllm.config import BackendSettings, Deployment
from asyncllm.testing import (
    FaultyServer,
    Rst,
    ScriptedBackend,
    ScriptedReply,
    ScriptedTransport,
    Stall,
    Status,
    openai_chunks,
    openai_reply,
    openai_stream,
)
from asyncllm.trail import Trail

HELLO: list[Event] = [
    Started("m", "r-1"),
    TextDelta("Hel"),
    TextDelta("lo"),
    UsageReport(Usage(input_tokens=1)),
    Finished("stop"),
]
NO_WAIT = Retry(backoff_s=0, throttled_s=0)


def over(transport: ScriptedTransport, **arguments: Any) -> Client:
    """A client of an OpenAI-compatible server that is faked."""
    defaults: dict[str, Any] = {"model": "openai:gpt-x", "base_url": "http://fake/v1", "api_key": "k", "retry": NO_WAIT}
    return Client(transport=transport, env={}, **{**defaults, **arguments})


def body(transport: ScriptedTransport, call: int = -1) -> dict[str, Any]:
    return msgspec.json.decode(transport.calls[call].body)  # type: ignore[no-any-return]


async def test_a_chat_is_the_fold_of_its_events() -> None:
    async with Client(backend=ScriptedBackend([HELLO])) as client:
        reply = await client.chat("hi")

    assert (reply.text, reply.model, reply.request_id, reply.finish_reason) == ("Hello", "m", "r-1", "stop")
    assert reply.usage.input_tokens == 1
    assert reply.backend == "ScriptedBackend"


async def test_a_stream_gives_events_and_then_the_same_reply() -> None:
    async with Client(backend=ScriptedBackend([HELLO])) as client:
        async with client.stream("hi") as stream:
            events = [event async for event in stream]

        assert events == HELLO
        assert stream.response == await client.chat("hi")


async def test_stream_text_gives_the_text_alone() -> None:
    backend = ScriptedBackend([HELLO])
    async with Client(backend=backend) as client:
        stream = client.stream_text("hi")

        assert [text async for text in stream] == ["Hel", "lo"]
        assert stream.response.text == "Hello"
        assert backend.opened == backend.closed == 1


async def test_the_system_text_goes_first_and_the_callers_list_stays_as_it_was() -> None:
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])
    prompt: list[Message | dict[str, Any]] = [
        Message("user", "a"),
        {"role": "assistant", "content": "b"},
        Message("user", "c"),
    ]

    async with over(transport) as client:
        await client.chat(prompt, system="be brief")

    assert [message["content"] for message in body(transport)["messages"]] == ["be brief", "a", "b", "c"]
    assert len(prompt) == 3


async def test_single_options_win_over_the_sampling_object_and_extra_goes_untouched() -> None:
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with over(transport) as client:
        await client.chat("hi", sampling=Sampling(temperature=0.5, seed=1), temperature=0.1, extra={"user": "u"})

    assert body(transport) == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.1,
        "seed": 1,
        "user": "u",
    }


async def test_an_answer_is_decoded_to_the_type_that_was_asked_for() -> None:
    class City(msgspec.Struct):
        name: str
        people: int

    transport = ScriptedTransport([ScriptedReply(body=openai_reply('{"name":"Paris","people":2}'))])

    async with over(transport) as client:
        reply = await client.chat("hi", output_type=City)

    assert reply.parsed == City("Paris", 2)
    schema = body(transport)["response_format"]["json_schema"]
    assert schema["name"] == "City"
    assert schema["schema"]["type"] == "object"
    assert "$ref" not in schema["schema"]


@pytest.mark.parametrize("answer", ['{"canary', '{"canary": 1}', '"canary"'])
async def test_an_answer_of_another_type_is_an_error_that_holds_it_and_does_not_say_it(answer: str) -> None:
    class City(msgspec.Struct, forbid_unknown_fields=True):
        name: str

    async with over(ScriptedTransport([ScriptedReply(body=openai_reply(answer))])) as client:
        with pytest.raises(asyncllm.ResponseValidationError) as caught:
            await client.chat("hi", output_type=City)

    assert caught.value.partial is not None
    assert caught.value.partial.text == answer
    assert answer not in str(caught.value)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": 5}),
    ("prompt", {"prompt": {"role": "user", "content": "hi"}}),
    ("prompt[0]", {"prompt": ["hi"]}),
    ("prompt[1].role", {"prompt": [Message("user", "hi"), {"role": "usr", "content": "hi"}]}),
    ("temperature", {"temperature": "hot"}),
    ("temperature", {"temperature": -1}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.5}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": None}),
    ("n", {"n": 0}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": ["a", ""]}),
    ("logit_bias", {"logit_bias": {"the": 1.0}}),
    ("presence_penalty", {"presence_penalty": 3}),
    ("min_p", {"min_p": 2}),
    ("sampling", {"sampling": {"temperature": 1}}),
    ("temperatur", {"temperatur": 1}),
    ("system", {"system": ""}),
    ("tools", {"tools": "f"}),
    ("tools", {"tools": [print]}),
    ("tools[0]", {"tools": [{"type": "function"}]}),
    ("tool_choice", {"tool_choice": 5}),
    ("constraint", {"constraint": [asyncllm.Regex("a"), asyncllm.Choice(["b"])]}),
    ("constraint", {"constraint": asyncllm.Regex("a"), "output_type": int}),
    ("output_type", {"output_type": object()}),
    ("timeouts", {"timeouts": 5}),
    ("extra", {"extra": "x"}),
    ("model", {"model": ["openai:gpt-x", ""]}),
    ("model", {"model": "gpt-x"}),
    ("model", {"model": "openai:"}),
    ("model", {"model": "opneai:gpt-x"}),
]


@pytest.mark.parametrize(("field", "call"), BAD, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD)])
async def test_bad_input_is_refused_by_its_name_before_anything_is_sent(field: str, call: dict[str, Any]) -> None:
    transport = ScriptedTransport()

    async with over(transport) as client:
        with pytest.raises(asyncllm.ConfigError) as caught:
            await client.chat(**{"prompt": "hi", **call})

    assert caught.value.field == field
    assert transport.calls == []


async def test_a_near_miss_of_an_option_is_suggested() -> None:
    async with over(ScriptedTransport()) as client:
        with pytest.raises(asyncllm.InvalidRequestError, match="did you mean 'temperature'"):
            await client.chat("hi", temprature=1)  # type: ignore[call-arg]


UNSUPPORTED = [{"top_k": 5}, {"constraint": asyncllm.Regex("a")}, {"ignore_eos": True}]


@pytest.mark.parametrize("options", UNSUPPORTED)
async def test_what_a_backend_does_not_know_is_never_dropped_in_silence(options: dict[str, Any]) -> None:
    transport = ScriptedTransport()

    async with over(transport, base_url="https://api.openai.com/v1") as client:
        with pytest.raises(asyncllm.UnsupportedError, match="'openai' backend") as caught:
            await client.chat("hi", **options)

    assert caught.value.field in {"top_k", "Regex", "ignore_eos"}
    assert transport.calls == []


async def test_completions_continue_a_text_and_refuse_what_only_a_chat_has() -> None:
    reply = b'{"id":"r","model":"m","choices":[{"index":0,"text":" there","finish_reason":"length"}]}'
    transport = ScriptedTransport([ScriptedReply(body=reply)])

    async with over(transport) as client:
        assert (await client.complete([1, 2, 3], max_tokens=5)).text == " there"
        for name, value in {"system": "s", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}.items():
            with pytest.raises(asyncllm.InvalidRequestError, match=name):
                await client.complete("hi", **{name: value})  # type: ignore[arg-type]
        for prompt in ("", [], [True], [-1], [Message("user", "hi")]):
            with pytest.raises(asyncllm.InvalidRequestError):
                await client.complete(prompt)  # type: ignore[arg-type]

    assert transport.calls[0].url == "http://fake/v1/completions"
    assert body(transport) == {"model": "gpt-x", "prompt": [1, 2, 3], "max_tokens": 5}


@pytest.mark.parametrize(
    ("texts", "options", "field"),
    [
        (5, {}, "texts"),
        ("a", {"timeouts": 5}, "timeouts"),
        ("a", {"timeouts": 0}, "timeouts"),
        ("a", {"extra": [1]}, "extra"),
    ],
)
async def test_arguments_of_embed_are_refused_by_their_name(texts: Any, options: Any, field: str) -> None:
    async with Client(model="openai:e", base_url="http://127.0.0.1:1", api_key="k") as client:
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            await client.embed(texts, **options)

    assert caught.value.field == field


@pytest.mark.parametrize(
    "arguments",
    [{"base_url": 5}, {"api_key": 5}, {"options": "x"}, {"prices": ["x"]}, {"prices": {"x": 5}}, {"config": {"a": 1}}],
)
def test_arguments_of_a_client_are_refused_by_their_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Client(model="echo:x", **arguments)

    assert caught.value.field in arguments


async def test_embeddings_come_in_order_and_bad_texts_are_named_by_position() -> None:
    reply = b'{"model":"e","data":[{"index":1,"embedding":[2.0]},{"index":0,"embedding":[1.0]}]}'
    transport = ScriptedTransport([ScriptedReply(body=reply)])

    async with over(transport) as client:
        vectors = await client.embed(["a", "b"])
        with pytest.raises(asyncllm.InvalidRequestError, match=r"texts\[1\]"):
            await client.embed(["a", ""])
        with pytest.raises(asyncllm.InvalidRequestError, match="empty list"):
            await client.embed([])
        with pytest.raises(asyncllm.InvalidRequestError, match="dimensions"):
            await client.embed("a", dimensions=0)

    assert [list(vector) for vector in vectors] == [[1.0], [2.0]]
    assert len(transport.calls) == 1


async def test_a_call_that_the_backend_lacks_is_refused_by_name() -> None:
    async with Client(model="echo:x") as client:
        for call in (client.embed("a"), client.list_models()):
            with pytest.raises(asyncllm.UnsupportedError, match="'echo' backend has no"):
                await call
        assert (await client.check_prompt("one two", max_tokens=3)).tokens == 2
    async with over(ScriptedTransport()) as client:
        with pytest.raises(asyncllm.UnsupportedError, match="check_prompt"):
            await client.check_prompt("hi")


async def test_is_alive_never_raises_and_never_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultyServer(lambda seen: [Status(200, {}, b'{"data":[]}')]) as server:
        async with Client(model="openai:x", base_url=server.url, env={}) as client:
            assert await client.is_alive()
            assert server.requests[0].path == "/models"
    async with Client(model="openai:x", base_url=server.url, env={}) as client:
        assert not await client.is_alive()
    monkeypatch.setattr("asyncllm.place._ALIVE_S", 0.1)
    async with FaultyServer([Stall()]) as server, Client(model="openai:x", base_url=server.url, env={}) as client:
        assert not await client.is_alive()
    for status in (401, 500, 503):
        async with over(ScriptedTransport([ScriptedReply(status=status)])) as client:
            assert not await client.is_alive()
    async with Client(env={}) as client:
        assert not await client.is_alive(model="nowhere:x")


# -- models, keys, addresses -------------------------------------------------------------------------------------


async def test_a_slash_separates_where_the_prefix_is_a_backend_and_belongs_to_the_model_elsewhere() -> None:
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with over(transport) as client:
        for model in ("openai/org/model:tag", "openai:org/model:tag"):
            await client.chat("hi", model=model)
            assert body(transport)["model"] == "org/model:tag"


async def test_an_alias_wins_and_a_deployment_goes_to_its_own_place_with_its_own_key() -> None:
    settings = Settings(
        model="openai:default",
        aliases={"openai:gpt-x": "eu"},
        deployments={"eu": Deployment(backend="openai", model="gpt-eu", base_url="http://eu/v1", api_key_env="EU")},
        backends={"openai": BackendSettings(base_url="http://plain/v1", api_key="plain")},
    )
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with Client(config=settings, transport=transport, env={"EU": "eu-key"}) as client:
        await client.chat("hi", model="openai:gpt-x")
        await client.chat("hi")

    eu, plain = transport.calls
    assert (eu.url, eu.headers["Authorization"]) == ("http://eu/v1/chat/completions", "Bearer eu-key")
    assert (plain.url, plain.headers["Authorization"]) == ("http://plain/v1/chat/completions", "Bearer plain")


async def test_the_clients_own_key_goes_to_the_backend_of_its_model_and_to_no_other() -> None:
    settings = Settings(deployments={"other": Deployment(backend="openai", model="m", base_url="http://other/v1")})
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with over(transport, config=settings) as client:
        await client.chat("hi")
        await client.chat("hi", model="other")

    own, other = transport.calls
    assert own.headers["Authorization"] == "Bearer k"
    assert "Authorization" not in other.headers


async def test_a_missing_key_names_its_variable_and_an_empty_one_counts_as_missing() -> None:
    for env in ({}, {"OPENAI_API_KEY": ""}):
        async with Client(model="openai:gpt-x", env=env) as client:
            with pytest.raises(asyncllm.ConfigError, match="OPENAI_API_KEY"):
                await client.chat("hi")


async def test_the_vendors_variables_are_read() -> None:
    env = {"OPENAI_API_KEY": "env-key", "OPENAI_BASE_URL": "http://env/v1/", "OPENAI_ORG_ID": "org"}
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with Client(model="openai:gpt-x", env=env, transport=transport) as client:
        await client.chat("hi")

    (call,) = transport.calls
    assert call.url == "http://env/v1/chat/completions"
    assert call.headers["Authorization"] == "Bearer env-key"
    assert call.headers["OpenAI-Organization"] == "org"


@pytest.mark.parametrize("url", [None, "https://eu.api.openai.com/v1"])
async def test_openais_own_address_gets_its_own_name_for_the_output_limit(url: str | None) -> None:
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("ok"))])

    async with over(transport, base_url=url) as client:
        await client.chat("hi", max_tokens=5)

    assert body(transport)["max_completion_tokens"] == 5


async def test_no_model_anywhere_says_how_to_give_one() -> None:
    async with Client(env={}, config=Settings()) as client:
        with pytest.raises(asyncllm.ConfigError, match="pass model='backend:model'"):
            await client.chat("hi")


@pytest.mark.parametrize("arguments", [{"timeouts": 5}, {"retry": 5}, {"api_key": "a\nb"}])
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError):
        Client(**arguments, env={})


# -- failures, retries, fallback ---------------------------------------------------------------------------------


async def test_a_failure_before_the_first_piece_is_tried_again_with_the_same_bytes() -> None:
    transport = ScriptedTransport(
        [
            ScriptedReply(status=429),
            ScriptedReply(body=[b'data: {"error":{"code":503}}\n\n']),
            ScriptedReply(body=openai_stream(["Hel", "lo"])),
        ]
    )

    async with over(transport) as client:
        async with client.stream("hi") as stream:
            assert [event.text async for event in stream if isinstance(event, TextDelta)] == ["Hel", "lo"]

    assert len({call.body for call in transport.calls}) == 1
    assert len(transport.calls) == 3
    assert transport.opened == transport.closed == 2


async def test_an_error_tells_of_every_attempt() -> None:
    async with over(ScriptedTransport([ScriptedReply(status=429), ScriptedReply(status=500)])) as client:
        with pytest.raises(asyncllm.InternalServerError, match="after 3 attempts") as caught:
            await client.chat("hi")

    assert [error.status for error in caught.value.attempts] == [429, 500, 500]
    assert (caught.value.backend, caught.value.model) == ("openai", "gpt-x")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_another_try_cannot_mend_is_not_tried_again(status: int) -> None:
    transport = ScriptedTransport([ScriptedReply(status=status)])

    async with over(transport) as client:
        with pytest.raises(asyncllm.APIStatusError):
            await client.chat("hi")

    assert len(transport.calls) == 1


async def test_after_the_first_piece_nothing_is_tried_again_and_what_came_is_kept() -> None:
    pieces = [b"data: " + chunk + b"\n\n" for chunk in openai_chunks(["Hel", "lo"], finish=None)]
    transport = ScriptedTransport([ScriptedReply(body=[*pieces, asyncllm.StreamInterrupted("cut")])])

    async with over(transport) as client:
        seen: list[str] = []
        with pytest.raises(asyncllm.StreamInterrupted) as caught:
            async for text in client.stream_text("hi"):
                seen.append(text)  # noqa: PERF401  # what came before the error is the point

    assert seen == ["Hel", "lo"]
    assert len(transport.calls) == 1
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello"
    assert caught.value.partial.finish_reason is None
    assert caught.value.maybe_billed


async def test_a_backend_that_forgets_its_terminal_event_is_found_out() -> None:
    async with Client(backend=ScriptedBackend([[TextDelta("half")]])) as client:
        with pytest.raises(asyncllm.StreamInterrupted) as caught:
            await client.chat("hi")

    assert caught.value.partial is not None
    assert caught.value.partial.text == "half"


FALLS = [
    (ScriptedReply(status=503), True),
    (ScriptedReply(status=404), True),
    (ScriptedReply(status=429, body=b'{"error":{"code":"insufficient_quota"}}'), True),
    (asyncllm.APIConnectionError("refused"), True),
    (ScriptedReply(status=400), False),
    (ScriptedReply(status=401), False),
]


@pytest.mark.parametrize(("first", "falls"), FALLS, ids=range(len(FALLS)))
async def test_the_next_model_is_asked_only_where_it_could_do_better(first: Any, falls: bool) -> None:
    good = ScriptedReply(body=openai_reply("ok"))
    transport = ScriptedTransport([lambda call: first if b"one" in call.body else good])

    async with over(transport, retry=None) as client:
        if falls:
            assert (await client.chat("hi", model=["openai:one", "openai:two"])).text == "ok"
        else:
            with pytest.raises(asyncllm.APIStatusError):
                await client.chat("hi", model=["openai:one", "openai:two"])

    assert len(transport.calls) == (2 if falls else 1)


async def test_when_every_model_fails_the_error_is_the_last_ones_and_tells_of_all() -> None:
    async with over(ScriptedTransport([ScriptedReply(status=503), ScriptedReply(status=500)]), retry=None) as client:
        with pytest.raises(asyncllm.InternalServerError) as caught:
            await client.chat("hi", model=["openai:one", "openai:two"])

    assert [error.status for error in caught.value.attempts] == [503, 500]
    assert caught.value.model == "two"


# -- deadlines and cancellation ----------------------------------------------------------------------------------

DEADLINES = [
    ([Stall()], Timeouts(first_event_s=0.05), asyncllm.FirstEventTimeoutError, None),
    ([Started(), Stall()], Timeouts(first_event_s=0.05), asyncllm.EventIdleTimeoutError, None),
    ([TextDelta("a"), Stall()], Timeouts(event_idle_s=0.05), asyncllm.EventIdleTimeoutError, "a"),
    ([TextDelta("a"), Stall()], Timeouts(total_s=0.05), asyncllm.TotalTimeoutError, "a"),
    ([Stall()], Timeouts(total_s=0.05), asyncllm.TotalTimeoutError, None),
]


@pytest.mark.parametrize(("script", "timeouts", "kind", "partial"), [DEADLINES[0], *DEADLINES[2:]])
async def test_each_deadline_has_its_own_error_and_stops_the_work(
    script: list[Any], timeouts: Timeouts, kind: type[asyncllm.APITimeoutError], partial: str | None
) -> None:
    backend = ScriptedBackend([script])

    async with Client(backend=backend, retry=None) as client:
        for is_stream in (False, True):
            with pytest.raises(kind) as caught:
                if is_stream:
                    async for _ in client.stream_text("hi", timeouts=timeouts):
                        pass
                else:
                    await client.chat("hi", timeouts=timeouts)
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.elapsed_s is not None
            assert caught.value.elapsed_s >= 0.05
            assert (caught.value.partial.text if caught.value.partial else None) == partial
            assert caught.value.events == (1 if partial else 0)

    assert backend.opened == backend.closed == 2


async def test_comments_do_not_keep_a_dead_stream_alive() -> None:
    chunks = openai_chunks(["a"], finish=None)
    async with FaultyServer(
        lambda seen: [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
            *(b"data: " + chunk + b"\n\n" for chunk in chunks),
            *[step for _ in range(200) for step in (0.01, b": ping\n\n")],
        ]
    ) as server:
        async with Client(model="openai:x", base_url=server.url, retry=None, env={}) as client:
            with pytest.raises(asyncllm.EventIdleTimeoutError):
                await client.stream("hi", timeouts=Timeouts(event_idle_s=0.2)).whole()


async def test_a_slow_consumer_is_not_held_to_the_models_deadline() -> None:
    async with Client(backend=ScriptedBackend([[TextDelta("a"), TextDelta("b"), Finished("stop")]])) as client:
        texts = []
        async for text in client.stream_text("hi", timeouts=Timeouts(event_idle_s=0.05, first_event_s=0.05)):
            texts.append(text)
            await asyncio.sleep(0.1)

    assert texts == ["a", "b"]


async def test_a_dropped_stream_needs_no_collector_of_cycles() -> None:
    backend = ScriptedBackend([[TextDelta("a"), Stall()]])
    gc.disable()
    try:
        async with Client(backend=backend) as client:
            async for _ in client.stream_text("hi"):
                break
            for _ in range(10):
                await asyncio.sleep(0)

            assert backend.closed == 1
    finally:
        gc.enable()


async def test_a_cancellation_from_outside_wins_over_a_deadline_of_the_same_moment() -> None:
    backend = ScriptedBackend([[Stall()]])

    async with Client(backend=backend) as client:
        task = asyncio.ensure_future(client.chat("hi", timeouts=Timeouts(first_event_s=0.05)))
        await asyncio.sleep(0.03)
        asyncio.get_running_loop().call_later(0.02, task.cancel)
        task_done, _ = await asyncio.wait([task], timeout=5)

    assert task_done
    assert task.cancelled() or isinstance(task.exception(), asyncllm.FirstEventTimeoutError)
    assert backend.opened == backend.closed


async def test_a_reset_in_the_middle_keeps_what_had_come() -> None:
    async with FaultyServer(
        lambda seen: [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
            *(b"data: " + chunk + b"\n\n" for chunk in openai_chunks(["Hel", "lo"], finish=None)),
            0.05,
            Rst(),
        ]
    ) as server:
        async with Client(model="openai:x", base_url=server.url, env={}) as client:
            with pytest.raises(asyncllm.StreamInterrupted) as caught:
                await client.stream("hi").whole()

    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello"
    assert len(server.requests) == 1


BODIES: list[tuple[str, bytes, type[Exception]]] = [
    ("text/html", b"<html><title>Sign in</title></html>", asyncllm.ProtocolError),
    ("application/x-ndjson", b'{"message":{"content":"a"}}\n', asyncllm.StreamInterrupted),
    ("application/json", b'{"error":{"message":"no","code":429}}', asyncllm.RateLimitError),
    ("text/event-stream", b"", asyncllm.StreamInterrupted),
]


@pytest.mark.parametrize(("kind", "data", "error"), BODIES, ids=[case[0] for case in BODIES])
async def test_a_body_that_is_no_stream_is_never_an_empty_answer(
    kind: str, data: bytes, error: type[Exception]
) -> None:
    async with over(
        ScriptedTransport([ScriptedReply(headers={"Content-Type": kind}, body=data)]), retry=None
    ) as client:
        with pytest.raises(error):
            await client.stream("hi").whole()


async def test_a_server_that_does_not_stream_still_answers() -> None:
    reply = ScriptedReply(headers={"Content-Type": "application/json; charset=utf-8"}, body=openai_reply("whole"))

    async with over(ScriptedTransport([reply])) as client:
        assert [text async for text in client.stream_text("hi")] == ["whole"]


# -- lifecycle ---------------------------------------------------------------------------------------------------


async def test_one_client_serves_many_tasks() -> None:
    async with Client(model="echo:x") as client:
        replies = await asyncio.gather(*(client.chat(f"number {n}") for n in range(200)))

    assert [reply.text for reply in replies] == [f"number {n}" for n in range(200)]


def test_a_second_event_loop_is_refused_with_the_way_out() -> None:
    client = Client(model="echo:x")

    async def use() -> None:
        await client.chat("hi")

    asyncio.run(use())
    with pytest.raises(asyncllm.WrongLoopError, match=r"asyncllm\.sync\.Client"):
        asyncio.run(use())


def test_two_runs_with_a_client_each_work() -> None:
    async def use() -> str:
        async with Client(model="echo:x") as client:
            return (await client.chat("hi")).text

    assert [asyncio.run(use()), asyncio.run(use())] == ["hi", "hi"]


async def test_without_a_block_a_client_works_and_is_closed_by_aclose() -> None:
    client = Client(model="echo:x")

    assert (await client.chat("hi")).text == "hi"
    await client.aclose()
    await client.aclose()
    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        await client.chat("hi")


async def test_closing_closes_the_backend_and_the_transport_though_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Transport(ScriptedTransport):
        async def aclose(self) -> None:
            closed.append("transport")

    async def fail(_: object) -> None:
        closed.append("backend")
        raise RuntimeError("stuck")

    monkeypatch.setattr("asyncllm.transport.AiohttpTransport", Transport)
    monkeypatch.setattr("asyncllm_echo.Echo.aclose", fail)
    client = Client(model="echo:x")
    await client.chat("hi")

    with pytest.raises(RuntimeError, match="stuck"):
        await client.aclose()
    assert closed == ["backend", "transport"]


async def test_a_stream_outside_its_block_says_how_to_use_it() -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(TypeError, match="async with"):
            aiter(client.stream("hi"))


async def test_several_answers_are_refused_where_only_one_is_given() -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(asyncllm.InvalidRequestError, match="one answer"):
            client.stream_text("hi", n=2)


async def test_neither_a_client_nor_its_errors_show_key_or_prompt() -> None:
    canary = "canary-91c4"
    echo = ScriptedReply(
        status=400, body=f'{{"error":{{"message":"key {canary}-key, prompt {canary}-prompt"}}}}'.encode()
    )

    async with over(ScriptedTransport([echo]), api_key=f"{canary}-key") as client:
        with pytest.raises(asyncllm.BadRequestError) as caught:
            await client.chat(f"{canary}-prompt")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(client)

    assert canary not in f"{client!r} {caught.value} {caught.value!r} {caught.value.facts()}"


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    assert not left


async def test_a_completion_streams_too() -> None:
    async with Client(model="echo:x") as client, client.stream_complete("one two") as stream:
        assert [event.text async for event in stream if isinstance(event, TextDelta)] == ["one", " two"]
    assert stream.response.text == "one two"


async def test_a_request_is_asked_as_it_describes_itself() -> None:
    asked = Request(model="", messages=(Message("user", "one two"),))

    async with Client(model="echo:x") as client:
        whole = await client.ask(asked).whole()
        async with client.ask(msgspec.structs.replace(asked, stream=True), model="echo:y") as stream:
            batches = [batch async for batch in stream.batches]

    assert (whole.text, whole.model) == ("one two", "x")
    assert stream.response.text == "one two"
    assert stream.response.model == "y"
    assert sum(map(len, batches)) >= 3


async def test_deadlines_of_a_request_are_the_client_s_unless_it_has_its_own() -> None:
    seen: list[Timeouts] = []

    class Hook:
        def before(self, call: Trail, /) -> None:
            seen.append(call.request.timeouts)

    asked = Request(model="", messages=(Message("user", "one"),))
    async with Client(model="echo:x", timeouts=Timeouts(total_s=7), hooks=[Hook()]) as client:
        await client.ask(asked).whole()
        await client.ask(msgspec.structs.replace(asked, timeouts=Timeouts(total_s=3))).whole()

    assert [one.total_s for one in seen] == [7, 3]


async def test_batches_of_events_are_read_inside_the_block_alone() -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(TypeError, match="inside its block"):
            _ = client.stream("hi").batches
