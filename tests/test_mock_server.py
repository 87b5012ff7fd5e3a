"""`asyncllm mock-server` in a process of its own, called by our client and by the `openai` package."""

from __future__ import annotations

import asyncio
import json
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import openai
import pytest

from asyncllm.client import Client
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    ConfigError,
    InternalServerError,
    OverloadedError,
    RateLimitError,
    StreamInterrupted,
)
from asyncllm.testing import Failure, FaultyServer, OpenAIMock, run_virtual
from asyncllm.types import Timeouts

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "one two three four"}]


class Served:
    """A running command and its address."""

    def __init__(self, *args: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "asyncllm", "mock-server", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.child.stdout is not None
        assert select.select([self.child.stdout], [], [], 60)[0], "no address came"
        self.url = self.child.stdout.readline().decode().strip()

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, bytes, bytes]:
        """Status and what else was written."""
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=60)
        return self.child.returncode, out, err


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.end()


async def test_our_client_is_answered(served: Served) -> None:
    async with Client(model="openai:any", base_url=served.url, env={}) as client:
        whole = await client.chat("one two three four")
        streamed = "".join([piece async for piece in client.stream_text("one two three four")])
        cut = await client.chat("one two three four", max_tokens=2, n=2)
        completed = await client.complete("Once upon a time")
        models = await client.list_models()

    assert whole.text == streamed == "one two three four"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (4, 4)
    assert [choice.message.text for choice in cut.choices] == ["one two"] * 2
    assert cut.finish_reason == "length"
    assert completed.text == "Once upon a time"
    assert [model.id for model in models] == ["mock"]


async def test_the_openai_package_is_answered(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=served.url, api_key="any", max_retries=0) as client:
        whole = await client.chat.completions.create(model="any", messages=MESSAGES)
        stream = await client.chat.completions.create(
            model="any", messages=MESSAGES, stream=True, n=2, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        completed = await client.completions.create(model="any", prompt="Once upon a time")
        vectors = await client.embeddings.create(model="any", input=["a", "bc"], encoding_format="float")
        models = [model.id async for model in client.models.list()]

    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert whole.choices[0].message.content == "one two three four"
    assert texts == ["one two three four"] * 2
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert completed.choices[0].text == "Once upon a time"
    assert [vector.embedding for vector in vectors.data] == [[1, 1], [2, 1]]
    assert models == ["mock"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(number: signal.Signals, status: int) -> None:
    assert Served().end(number) == (status, b"", b"")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--failure", "flood"], "failure is one of 429, "),
        (["--failure-rate", "2"], "failure_rate"),
        (["--token", "-1"], "token_s"),
        (["--tokens", "0"], "tokens"),
        (["--port", "99999"], "port 99999"),
    ],
)
def test_an_option_that_cannot_be_is_named(args: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "asyncllm", "mock-server", *args], capture_output=True, text=True)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# -- the mock, without the command -----------------------------------------------------------------------------------


async def call(mock: OpenAIMock, times: int = 1, *, stream: bool = True) -> Sequence[str | APIError]:
    """What each of so many calls gave."""
    got: list[str | APIError] = []
    timeouts = Timeouts(first_event_s=0.2)
    async with (
        FaultyServer(mock.script()) as server,
        Client(model="openai:any", base_url=server.url, env={}, retry=None, timeouts=timeouts) as client,
    ):
        for _ in range(times):
            try:
                if stream:
                    got.append("".join([piece async for piece in client.stream_text("one two three four")]))
                else:
                    got.append((await client.chat("one two three four")).text)
            except APIError as error:
                got.append(error)
    return got


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("429", RateLimitError),
        ("500", InternalServerError),
        ("503", OverloadedError),
        ("529", OverloadedError),
        ("reset", APIConnectionError),
        ("close", APIConnectionError),
        ("stall", APIConnectionError),
        ("cut", (StreamInterrupted, APIConnectionError)),
        ("error-event", InternalServerError),
    ],
)
async def test_every_failure_is_told_as_what_it_is(
    failure: Failure, error: type[APIError] | tuple[type[APIError], ...], stream: bool
) -> None:
    (got,) = await call(OpenAIMock(failure_rate=1, failure=failure), stream=stream)

    assert isinstance(got, error)
    if stream and failure in ("cut", "error-event"):
        assert isinstance(got, APIError)
        assert got.partial is not None
        assert got.partial.text.startswith("one")


async def test_a_seed_fails_the_same_calls_again() -> None:
    mock = OpenAIMock(failure_rate=0.5, seed=7)

    runs = [[isinstance(got, APIError) for got in await call(mock, 30)] for _ in range(2)]

    assert runs[0] == runs[1]
    assert 5 < sum(runs[0]) < 25


async def test_an_answer_has_the_length_and_takes_the_time_it_is_told() -> None:
    (got,) = await call(OpenAIMock(answer="la la", tokens=5, first_token_s=0.01, token_s=0.01))

    assert got == "la lala lala"


def test_the_mock_takes_its_time_in_virtual_seconds() -> None:
    async def main() -> float:
        mock = OpenAIMock(tokens=10, first_token_s=5, token_s=1)
        async with (
            FaultyServer(mock.script()) as server,
            Client(model="openai:any", base_url=server.url, env={}) as client,
        ):
            await client.stream("hi").whole()
            return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(5 + 9, abs=0.1)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /v1/images HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", 405),
        (b"POST /v1/models HTTP/1.1\r\n\r\n", 405),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x\r\n}\r\n0\r\n\r\n", 200),
    ],
)
async def test_any_request_has_an_answer(request_: bytes, status: int) -> None:
    async with FaultyServer(OpenAIMock(answer="ok").script()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(request_)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    assert int(head.split(b" ")[1]) == status


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: OpenAIMock(first_token_s=-1), "first_token_s"),
        (lambda: OpenAIMock(failure_rate=float("nan")), "failure_rate"),
        (lambda: OpenAIMock(tokens=0), "tokens"),
        (lambda: OpenAIMock(failure=json.loads('"flood"')), "failure"),
    ],
)
def test_a_mock_that_cannot_be_names_its_field(make: Callable[[], OpenAIMock], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()

    assert caught.value.field == field
