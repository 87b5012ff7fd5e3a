"""What is scripted plays its script, and sees what was done to it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import asyncllm.testing
from asyncllm.backend import HttpCall
from asyncllm.client import Client
from asyncllm.dialect import ReplyStream, read_reply
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    BadRequestError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    RedirectRefusedError,
    StreamInterrupted,
)
from asyncllm.events import Finished, TextDelta, UsageReport
from asyncllm.testing import (
    Pause,
    ScriptedBackend,
    ScriptedReply,
    ScriptedTransport,
    Stall,
    in_pieces,
    openai_reply,
    openai_stream,
)
from asyncllm.testing.conformance.harness import run_clean
from asyncllm.types import Message, Request, Usage

HELLO = Request(model="any", messages=(Message("user", "hello"),))
DONE = Finished("stop")


# -- the door --------------------------------------------------------------------------------------------------------


def test_importing_the_kit_imports_neither_pytest_nor_aiohttp() -> None:
    code = (
        "import sys, asyncllm.testing as kit; [getattr(kit, name) for name in kit.__all__];"
        "print([name for name in ('pytest', 'aiohttp') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_name_of_the_kit_is_there() -> None:
    for name in asyncllm.testing.__all__:
        assert getattr(asyncllm.testing, name) is not None
    assert dir(asyncllm.testing) == sorted(asyncllm.testing.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = asyncllm.testing.nothing_of_the_kind


# -- ScriptedBackend -------------------------------------------------------------------------------------------------


async def test_a_scripted_backend_plays_its_scripts_in_order_and_the_last_one_again() -> None:
    error = RateLimitError("slow down", status=429)
    backend = ScriptedBackend([error, [TextDelta("hi"), Pause(0.001), 0.001, DONE]])

    with pytest.raises(RateLimitError):
        async with backend.open(HELLO):
            pass
    for _ in range(2):
        async with backend.open(HELLO) as events:
            assert [event async for event in events] == [TextDelta("hi"), DONE]

    assert backend.opened == backend.closed == 3
    assert backend.requests == [HELLO] * 3


async def test_a_scripted_backend_raises_what_stands_between_its_events() -> None:
    backend = ScriptedBackend([[TextDelta("hi"), StreamInterrupted("cut")]])
    got: list[object] = []

    async def read() -> None:
        async with backend.open(HELLO) as events:
            async for event in events:
                got.append(event)  # noqa: PERF401  # what had come before the error

    with pytest.raises(StreamInterrupted):
        await read()

    assert got == [TextDelta("hi")]
    assert backend.opened == backend.closed == 1


@pytest.mark.parametrize("script", [Stall(), [Stall()], [TextDelta("hi"), Stall()]])
async def test_a_stall_waits_until_cancelled_and_is_left(script: Stall | list[TextDelta | Stall]) -> None:
    backend = ScriptedBackend([script])

    async def read() -> None:
        async with asyncio.timeout(0.02), backend.open(HELLO) as events:
            async for _ in events:
                pass

    with pytest.raises(TimeoutError):
        await read()

    assert backend.opened == backend.closed == 1


async def test_a_client_retries_over_a_scripted_backend() -> None:
    backend = ScriptedBackend([OverloadedError("busy", status=503), [TextDelta("hi"), DONE]])

    async with Client(backend=backend, model="any", env={}) as client:
        reply = await client.chat("hello")

    assert reply.text == "hi"
    assert backend.opened == backend.closed == 2
    assert backend.is_closed


def test_a_scripted_backend_without_a_script_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one script"):
        ScriptedBackend([])


# -- ScriptedTransport -----------------------------------------------------------------------------------------------


def openai(transport: ScriptedTransport) -> Client:
    return Client(
        model="openai:any", base_url="http://fake/v1", api_key="sk-1234", transport=transport, retry=None, env={}
    )


async def test_a_scripted_transport_answers_a_client_and_keeps_the_calls() -> None:
    usage = Usage(input_tokens=1, output_tokens=2)
    whole, streamed = openai_reply("Hello", usage=usage), openai_stream(["Hel", "lo"], usage=usage)
    transport = ScriptedTransport([ScriptedReply(body=whole), ScriptedReply(body=in_pieces(streamed, 7))])

    async with openai(transport) as client:
        reply = await client.chat("hi")
        async with client.stream("hi") as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]

    assert reply.text == stream.response.text == "Hello"
    assert reply.usage == stream.response.usage == usage
    assert texts == ["Hel", "lo"]
    assert [call.stream for call in transport.calls] == [False, True]
    assert transport.calls[0].url == "http://fake/v1/chat/completions"
    assert transport.opened == transport.closed == 2
    assert not transport.is_closed  # it was given to the client


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ScriptedReply(429, {"Retry-After": "3"}, b'{"error": {"message": "slow"}}'), RateLimitError),
        (ScriptedReply(307), RedirectRefusedError),
        (ScriptedReply(204), ProtocolError),
        (ScriptedReply(body=[openai_stream(["Hi"])[:80], StreamInterrupted("cut")]), StreamInterrupted),
        (APIConnectionError("down"), APIConnectionError),
        (lambda call: ScriptedReply(400, body=call.body), BadRequestError),
    ],
)
async def test_a_scripted_transport_fails_as_it_is_told(answer: ScriptedReply, error: type[APIError]) -> None:
    transport = ScriptedTransport([answer])

    async with openai(transport) as client:
        text = client.stream_text("a prompt that the reply echoes")
        with pytest.raises(error) as caught:
            assert [piece async for piece in text]

    assert "echoes" not in str(caught.value)
    assert transport.opened == transport.closed


async def test_a_scripted_reply_has_headers_of_any_case_and_never_ends_early() -> None:
    transport = ScriptedTransport(
        [ScriptedReply(headers={"X-Request-Id": "7"}, body=[b"one", b"", 0.001, Pause(0), b"two"])]
    )

    async with transport.open(HttpCall(url="http://fake")) as lent:
        assert lent.headers["x-request-ID"] == "7"
        assert lent.headers["content-type"] == "application/json"
        assert len(lent.headers) == 2
        assert [await lent.receive() for _ in range(3)] == [b"one", b"two", b""]


async def test_a_scripted_reply_can_stall() -> None:
    transport = ScriptedTransport([ScriptedReply(body=[b"one", Stall()])])

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), transport.open(HttpCall(url="http://fake")) as reply:
            await reply.read()

    assert transport.closed == 1


async def test_a_scripted_transport_without_replies_says_who_called() -> None:
    with pytest.raises(AssertionError, match="POST http://fake"):
        async with ScriptedTransport().open(HttpCall(url="http://fake")):
            pass


# -- the wire --------------------------------------------------------------------------------------------------------


def test_openai_shapes_are_read_by_the_dialect() -> None:
    usage = Usage(input_tokens=3, output_tokens=2, cached_tokens=1, reasoning_tokens=1)
    stream = ReplyStream()
    streamed = stream.feed(openai_stream(["Hel", "lo"], finish="length", usage=usage))
    whole = read_reply(openai_reply(["a", "b"], finish="length", usage=usage))

    assert [event for event in streamed if isinstance(event, TextDelta)] == [TextDelta("Hel"), TextDelta("lo")]
    assert stream.done
    assert streamed[-1] == whole[-2] == Finished("length", "length")
    assert UsageReport(usage) in streamed
    assert UsageReport(usage) in whole


def test_an_openai_stream_can_lack_its_end() -> None:
    stream = ReplyStream()
    stream.feed(openai_stream(["Hel"], finish=None, done=False))

    assert not stream.done
    with pytest.raises(StreamInterrupted):
        stream.close()


# -- what a conformance check notices --------------------------------------------------------------------------------


async def nothing() -> None:
    """A coroutine."""


async def drop_a_socket() -> None:
    socket.socket()  # dropped on purpose


async def drop_a_coroutine() -> None:
    nothing()  # type: ignore[unused-coroutine]  # noqa: RUF100


async def drop_an_error() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    task = asyncio.create_task(fail())
    await asyncio.wait([task])


async def fail_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("check", "left"),
    [
        (drop_a_socket, "ResourceWarning: unclosed"),
        (drop_a_coroutine, "coroutine 'nothing' was never awaited"),
        (drop_an_error, "Task exception was never retrieved"),
        (fail_in_a_callback, "ZeroDivisionError"),
    ],
)
def test_a_check_fails_for_what_it_leaves_behind(check: Callable[[], Coroutine[Any, Any, None]], left: str) -> None:
    with pytest.raises(AssertionError, match=left):
        run_clean(check())


def test_a_check_that_leaves_nothing_behind_returns() -> None:
    async def check() -> int:
        return 7

    assert run_clean(check()) == 7


def test_a_warning_that_is_none_of_the_harness_business_goes_to_the_caller() -> None:
    async def check() -> None:
        warnings.warn("mine", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="mine"):
        run_clean(check())
