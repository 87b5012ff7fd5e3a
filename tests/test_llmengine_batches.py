"""What batches of LLM Engine are beside their contract: made once, without outcomes of their own."""

from __future__ import annotations

import pytest

from asyncllm import UnsupportedError
from asyncllm.errors import APIError, InvalidRequestError, ResponseValidationError
from asyncllm.testing import Status
from batch_talks import batch, serving, text
from llmengine_server import Jobs

OUT = "s3://bucket/out.json"


@pytest.mark.parametrize(("fate", "made"), [("before", 0), ("after", 1), ("500", 1)])
async def test_a_creation_whose_answer_is_lost_is_not_sent_again(fate: str, made: int) -> None:
    jobs = Jobs()
    jobs.lose = [fate]
    async with serving(jobs, "llmengine") as (server, backend):
        with pytest.raises(APIError) as caught:
            await backend.create_batch(batch("hi", output=OUT))

    assert caught.value.maybe_billed
    assert not caught.value.retryable
    assert (len(server.requests), jobs.created) == (1, made)


async def test_a_reply_without_the_id_of_a_job_is_no_job() -> None:
    async with serving(lambda _: [Status(body=b'{"status": "queued"}')], "llmengine") as (_, backend):
        with pytest.raises(ResponseValidationError) as caught:
            await backend.create_batch(batch("hi", output=OUT))

    assert caught.value.maybe_billed


async def test_nobody_can_ask_for_a_job_or_for_outcomes() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        with pytest.raises(UnsupportedError) as found:
            await backend.find_batch("token-1")
        with pytest.raises(UnsupportedError, match="output of the batch") as told:
            async with backend.batch_outcomes("job_1"):
                pass

    assert (found.value.field, told.value.field) == ("find_batch", "batch_outcomes")
    assert not server.requests


async def test_the_size_of_an_item_is_that_of_what_is_its_own() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        asked, completions = batch("hi", output=OUT), batch("hi", make=text, output=OUT)
        await backend.create_batch(asked)
        chat_size, prompt_size = (backend.batch_item_size(one.items[0]) for one in (asked, completions))

    sent = server.requests[0].body
    assert chat_size == len(sent[sent.index(b'"content":[') + len(b'"content":[') : sent.rindex(b"]")])
    assert prompt_size == len(b'{"prompt":"hi"}')


async def test_a_limit_of_time_by_the_service_s_own_name_is_refused() -> None:
    async with serving(Jobs(), "llmengine") as (_, backend):
        with pytest.raises(InvalidRequestError, match="max_runtime_s"):
            await backend.create_batch(batch("hi", output=OUT, extra={"max_runtime_sec": 5}))
