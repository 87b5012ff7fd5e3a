"""What the vLLM backend answers, held against what the engine says when nothing stands between."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from msgspec import UNSET

import asyncllm
from asyncllm import BadRequestError, Client, InvalidRequestError, Message, Response
from asyncllm.events import Finished, LogprobsDelta, TextDelta, UsageReport
from asyncllm_vllm.adapter import Core
from asyncllm_vllm.engine import Engine
from vllm_engines import chat_ids, client_of, naked

pytest_plugins = ["vllm_fixtures"]

PROMPT = "Tell me of the river."


@pytest.fixture
async def client(tiny_engine: Engine) -> AsyncGenerator[Client]:
    async with client_of(tiny_engine) as client:
        yield client
    assert tiny_engine.core.unfinished == 0


@pytest.fixture
async def core(tiny_engine: Engine) -> Core:
    return await tiny_engine.ready()


async def streamed(client: Client, **options: Any) -> Response:
    async with client.stream(PROMPT, **options) as stream:
        async for _ in stream:
            pass
    return stream.response


SAME: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "one token": {"temperature": 0, "max_tokens": 1},
    "two seeded choices": {"temperature": 0.9, "seed": 11, "n": 2},
    "sampled with every knob": {
        "temperature": 1.3, "seed": 5, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "presence_penalty": 0.5,
        "frequency_penalty": 0.3, "repetition_penalty": 1.2,
    },
    "a stop text": {"temperature": 0, "stop": "HALF"},
    "a stop text that is kept": {"temperature": 0, "stop": "HALF", "include_stop_str_in_output": True},
    "several stop texts": {"temperature": 0, "stop": ["HALF", "never said"]},
    "a stop text before min_tokens": {"temperature": 0, "stop": "HALF", "min_tokens": 30},
    "a stop id": {"temperature": 0, "stop_token_ids": "HALF"},
    "an end at once": {"temperature": 0, "logit_bias": "END"},
    "an end that is ignored": {"temperature": 0, "logit_bias": "END", "ignore_eos": True},
    "an end that has to wait": {"temperature": 0, "logit_bias": "END", "min_tokens": 7},
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_says_what_the_naked_engine_says(client: Client, core: Core, case: str, stream: bool) -> None:
    prompt = chat_ids(core, PROMPT)
    plain = (await naked(core, prompt, temperature=0, max_tokens=40)).outputs[0]
    tokenizer: Any = core._engine.get_tokenizer()
    end = tokenizer.eos_token_id
    options: dict[str, Any] = {"max_tokens": 40, **SAME[case]}
    half = plain.text[len(plain.text) // 2 :][:3]
    if options.get("stop") == "HALF":
        options["stop"] = half
    elif options.get("stop"):
        options["stop"] = [half, *options["stop"][1:]]
    if options.get("stop_token_ids"):
        options["stop_token_ids"] = [plain.token_ids[20]]
    theirs = dict(options)
    if options.get("logit_bias"):
        options["logit_bias"], theirs["logit_bias"] = {str(end): 100.0}, {end: 100.0}

    wanted = await naked(core, prompt, **theirs)
    got = await (streamed(client, **options) if stream else client.chat(PROMPT, **options))

    assert [choice.message.text for choice in got.choices] == [choice.text for choice in wanted.outputs]
    assert [choice.finish_reason for choice in got.choices] == [choice.finish_reason for choice in wanted.outputs]
    assert got.usage.input_tokens == len(prompt)
    assert got.usage.output_tokens == sum(len(choice.token_ids) for choice in wanted.outputs)


async def test_a_stream_has_the_engines_tokens_one_by_one(client: Client, core: Core) -> None:
    wanted = (await naked(core, chat_ids(core, PROMPT), temperature=0, max_tokens=200, logprobs=3)).outputs[0]

    async with client.stream(PROMPT, temperature=0, max_tokens=200, top_logprobs=3) as stream:
        events = [event async for event in stream]

    tokens = [token for event in events if isinstance(event, LogprobsDelta) for token in event.tokens]
    assert len(tokens) == len(wanted.token_ids) == 200
    for token, token_id, entry in zip(tokens, wanted.token_ids, wanted.logprobs, strict=True):
        assert token.token == entry[token_id].decoded_token
        assert math.isclose(token.logprob, entry[token_id].logprob, abs_tol=1e-3)
        best = sorted(entry.values(), key=lambda one: one.rank)[:3]
        assert [one.token for one in token.top] == [one.decoded_token for one in best]
        assert all(math.isclose(a.logprob, b.logprob, abs_tol=1e-3) for a, b in zip(token.top, best, strict=True))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == wanted.text
    assert [type(event) for event in events[-2:]] == [UsageReport, Finished]


async def test_log_probabilities_without_rivals(client: Client, core: Core) -> None:
    wanted = (await naked(core, chat_ids(core, PROMPT), temperature=0, max_tokens=5, logprobs=0)).outputs[0]

    got = await client.chat(PROMPT, temperature=0, max_tokens=5, logprobs=True)

    assert got.logprobs is not None
    own = [entry[token_id] for entry, token_id in zip(wanted.logprobs, wanted.token_ids, strict=True)]
    assert [one.token for one in got.logprobs] == [one.decoded_token for one in own]
    assert [one.top for one in got.logprobs] == [()] * 5


async def test_log_probabilities_of_the_prompt(client: Client, core: Core) -> None:
    prompt = chat_ids(core, PROMPT)
    wanted = (await naked(core, prompt, temperature=0, max_tokens=2, prompt_logprobs=2)).prompt_logprobs

    for got in (
        await client.chat(PROMPT, max_tokens=2, extra={"prompt_logprobs": 2}),
        await streamed(client, max_tokens=2, extra={"prompt_logprobs": 2}),
    ):
        assert got.prompt_logprobs is not None
        assert len(got.prompt_logprobs) == len(prompt) - 1
        for token, token_id, entry in zip(got.prompt_logprobs, prompt[1:], wanted[1:], strict=True):
            assert token.token == entry[token_id].decoded_token
            assert math.isclose(token.logprob, entry[token_id].logprob, abs_tol=1e-3)
            assert len(token.top) >= 2


async def test_completes_text_and_token_ids_alike(client: Client, core: Core) -> None:
    tokenizer: Any = core._engine.get_tokenizer()
    ids = tokenizer("Once upon a time").input_ids
    wanted = (await naked(core, ids, temperature=0, max_tokens=30)).outputs[0].text

    for prompt in ("Once upon a time", ids, tuple(ids)):
        got = await client.complete(prompt, temperature=0, max_tokens=30)
        async with client.stream_complete(prompt, temperature=0, max_tokens=30) as stream:
            pieces = [event.text async for event in stream if isinstance(event, TextDelta)]
        assert got.text == "".join(pieces) == wanted
        assert got.usage.input_tokens == len(ids)


async def test_what_extra_asks_for_reaches_the_sampler(client: Client, core: Core) -> None:
    prompt = chat_ids(core, PROMPT)
    plain = (await naked(core, prompt, temperature=0, max_tokens=30)).outputs[0]
    allowed = sorted(set(plain.token_ids))[:3]
    bad = plain.text[10:13]
    for ours, theirs in (
        ({"allowed_token_ids": allowed}, {"allowed_token_ids": allowed}),
        ({"bad_words": [bad]}, {"bad_words": [bad]}),
        ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
    ):
        wanted = (await naked(core, prompt, temperature=0, max_tokens=30, **theirs)).outputs[0]
        assert (await client.chat(PROMPT, temperature=0, max_tokens=30, extra=ours)).text == wanted.text
    assert wanted.text == plain.text  # the model ends nothing by itself


async def test_timings_and_cached_tokens_are_the_engines(client: Client) -> None:
    long = "The bridge and the river. " * 40
    first = await client.chat(long, max_tokens=6, ignore_eos=True)
    again = await client.chat(long, max_tokens=6, ignore_eos=True)

    assert first.usage.cached_tokens == 0
    assert 0 < (again.usage.cached_tokens or 0) < (again.usage.input_tokens or 0)
    for reply in (first, again):
        timings = reply.timings
        assert timings is not None
        assert timings.first_token_s is not None
        assert timings.token_s is not None
        assert 0 <= (timings.queue_s or 0) <= timings.first_token_s < 10
        assert 0 < timings.token_s < 5


async def test_counts_a_prompt_as_the_engine_does(client: Client, core: Core) -> None:
    check = await client.check_prompt(PROMPT, max_tokens=10)
    assert (check.tokens, check.limit) == (len(chat_ids(core, PROMPT)), 1024)
    assert check
    assert not await client.check_prompt(PROMPT, max_tokens=1024)
    assert (await client.check_prompt("word " * 5000)).tokens > 5000


async def test_tells_the_tokens_that_the_engine_sees_and_their_text(client: Client, core: Core) -> None:
    chat = await client.tokenize([Message("user", PROMPT)])
    plain = await client.tokenize(PROMPT, extra={"add_special_tokens": False})
    lengthy = await client.tokenize("word " * 5000)

    assert (list(chat.ids), chat.limit) == (chat_ids(core, PROMPT), 1024)
    assert await client.detokenize(plain.ids) == PROMPT
    assert (await client.detokenize(lengthy.ids)).count("word") == 5000


async def test_ids_of_no_token_are_refused(client: Client) -> None:
    with pytest.raises(BadRequestError, match="vocabulary"):
        await client.detokenize([10**9])


async def test_tokens_are_not_told_by_options_that_nobody_knows(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="extra"):
        await client.tokenize(PROMPT, extra={"add_specials": False})


async def test_an_answer_without_a_bound_takes_what_room_there_is(client: Client) -> None:
    reply = await client.complete([5] * 1000, ignore_eos=True)
    assert (reply.usage.output_tokens, reply.finish_reason) == (24, "length")
    bounded = await client.complete([5] * 1000, ignore_eos=True, max_tokens=500)
    assert bounded.usage.output_tokens == 24


async def test_a_stream_may_bring_several_tokens_an_event(client: Client) -> None:
    reply = await streamed(client, max_tokens=60, ignore_eos=True, extra={"stream_interval": 20}, temperature=0)
    async with client.stream(
        PROMPT, max_tokens=60, ignore_eos=True, extra={"stream_interval": 20}, temperature=0
    ) as stream:
        pieces = [event.text async for event in stream if isinstance(event, TextDelta)]
    assert len(pieces) < 10
    assert "".join(pieces) == reply.text


async def test_every_call_has_an_id_of_its_own_and_says_who_answered(client: Client, tiny_engine: Engine) -> None:
    replies = [await client.chat(PROMPT, max_tokens=1) for _ in range(5)]
    assert len({reply.request_id for reply in replies}) == 5
    assert {(reply.backend, reply.model) for reply in replies} == {("vllm", tiny_engine.model)}
    assert [model.id for model in await client.list_models()] == [tiny_engine.model]
    assert await client.is_alive()


async def test_an_unset_option_is_the_engines_own_choice(client: Client) -> None:
    assert asyncllm.Sampling().temperature is UNSET
    texts = {(await client.chat(PROMPT, max_tokens=20)).text for _ in range(3)}
    assert len(texts) > 1  # vLLM samples at temperature 1 unless told otherwise
