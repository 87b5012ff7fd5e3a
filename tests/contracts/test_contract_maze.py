"""Rows 1 to 8: instances of models on a Maze server, started, asked and stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm.instances import (
    InstanceExitedError,
    InstanceNotReadyError,
    LostInstanceError,
    Maze,
    UnknownInstanceError,
)
from asyncllm.testing import Fin, Pause, Stall, Status
from maze_server import MazeServer

MODEL = "facebook/opt-125m"
START, STOP, COMPLETIONS = "/start_llm_instance", "/stop_llm_instance", "/v1/completions"


def maze(server: MazeServer, **options: Any) -> Maze:
    return Maze(server.url, **{"poll_s": 0.01, "linger_s": 5, **options})


# -- 1 and 2: starting -------------------------------------------------------------------------------------------


async def test_row_001_a_start_asks_for_what_the_server_wants_and_gives_its_id() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)

        (seen,) = server.seen(START)
        assert (seen.method, seen.json()) == (
            "POST",
            {"model": MODEL, "cpu_nums": 5, "memory": 1024, "gpu_nums": 1},
        )
        assert instance.id == "instance-1"
        assert [one.id for one in client.instances] == ["instance-1"]


async def test_row_001_the_options_of_late_servers_are_sent_where_they_are_given() -> None:
    async with MazeServer() as server, maze(server) as client:
        await client.start(
            MODEL,
            cpu_nums=2,
            backend="transformers",
            gpu_mem=0,
            memory_mib=2048,
            gpu_memory_utilization=0.5,
            max_model_len=1024,
            extra={"own": [1]},
        )

        (seen,) = server.seen(START)
    assert seen.json() == {
        "model": MODEL,
        "cpu_nums": 2,
        "gpu_nums": 1,
        "memory_mib": 2048,
        "gpu_mem": 0,
        "backend": "transformers",
        "gpu_memory_utilization": 0.5,
        "max_model_len": 1024,
        "own": [1],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"backend": "sglang"},
        {"cpu_nums": -1},
        {"gpu_nums": True},
        {"gpu_memory_utilization": 1.5},
        {"max_model_len": 0},
        {"timeout_s": 0},
        {"extra": {"own": object()}},
        {"extra": 5},
    ],
)
async def test_row_001_what_cannot_be_right_is_refused_by_name(options: dict[str, Any]) -> None:
    async with MazeServer() as server, maze(server) as client:
        with pytest.raises(asyncllm.ConfigError) as caught:
            await client.start(**{"model": MODEL, **options})

    assert caught.value.field == next(iter(options))
    assert not server.requests


@pytest.mark.parametrize("port_type", [str, int])
async def test_row_002_a_port_may_be_text_or_a_number(port_type: Any) -> None:
    async with MazeServer() as server, maze(server) as client:
        server.port_type = port_type

        instance = await client.start(MODEL)

        assert (instance.host, instance.port) == ("127.0.0.1", server.port)
        assert instance.endpoint == f"http://127.0.0.1:{server.port}/v1"


# -- 3: asking ---------------------------------------------------------------------------------------------------


async def test_row_003_a_query_is_a_completion_by_the_instance() -> None:
    async with MazeServer() as server, maze(server, headers={"X-Token": "for-the-server"}) as client:
        instance = await client.start(MODEL)

        reply = await instance.complete("The sea is")

        (seen,) = server.seen(COMPLETIONS)
        assert reply.text == "The sea is"
        assert (seen.method, seen.headers["authorization"]) == ("POST", "Bearer EMPTY")
        assert (seen.json()["model"], seen.json()["prompt"]) == (MODEL, "The sea is")
        assert "x-token" not in seen.headers
        assert server.seen(START)[0].headers["x-token"] == "for-the-server"


async def test_row_003_an_answer_is_not_cut_unseen() -> None:
    prompt = " ".join(["wave"] * 40)
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)

        whole = await instance.complete(prompt)
        cut = await instance.complete(prompt, max_tokens=3)

    assert (whole.text, whole.finish_reason) == (prompt, "stop")
    assert (cut.text, cut.finish_reason) == ("wave wave wave", "length")


async def test_row_003_another_process_asks_by_id_and_address() -> None:
    async with MazeServer() as server, maze(server) as first:
        started = await first.start(MODEL)
        async with maze(server) as second:
            instance = second.attach(started.id, host=started.host, port=str(started.port), model=started.model)

            assert (await instance.complete("The sea is")).text == "The sea is"

        assert not server.seen(STOP)


# -- 4: stopping -------------------------------------------------------------------------------------------------


async def test_row_004_a_stopped_instance_is_known_no_more() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)

        assert await client.stop(instance.id) == {"status": "success"}

        assert [seen.json() for seen in server.seen(STOP)] == [{"instance_id": "instance-1"}]
        assert client.instances == ()
        with pytest.raises(UnknownInstanceError):
            await instance.complete("The sea is")
        assert not server.seen(COMPLETIONS)


async def test_row_004_stopping_twice_is_stopping_once() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)

        replies = await asyncio.gather(instance.stop(), client.stop(instance))

        assert [*replies, await instance.stop()] == [{"status": "success"}] * 3
        assert len(server.seen(STOP)) == 1


async def test_row_004_a_stop_that_failed_is_asked_for_again() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)
        server.stop_answers = [Status(500, body=b'{"detail": "actor is busy"}')]

        assert await instance.stop() == {"status": "success"}

    assert len(server.seen(STOP)) == 2


async def test_row_004_an_error_under_status_200_is_no_stop() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)
        server.stop_answers = [Status(body=b'{"detail": "the instance is busy"}')] * 3

        with pytest.raises(asyncllm.APIStatusError, match="the instance is busy"):
            await client.stop(instance)

        assert client.instances == (instance,)


async def test_row_004_a_stop_that_keeps_failing_leaves_the_instance_known() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)
        server.stop_answers = [Status(500, body=b'{"detail": "actor is busy"}')] * 3

        with pytest.raises(asyncllm.InternalServerError, match="actor is busy"):
            await instance.stop()

        assert client.instances == (instance,)
    assert server.running == {}


# -- 5: starts that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, asyncllm.BadRequestError),
        (500, asyncllm.InternalServerError),
        (503, asyncllm.OverloadedError),
    ],
)
async def test_row_005_a_start_that_fails_says_why_and_is_not_repeated(status: int, kind: type[Exception]) -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(status, body=b'{"detail": "gpu_nums must be exactly 1"}')

        with pytest.raises(asyncllm.APIStatusError, match="gpu_nums must be exactly 1") as caught:
            await client.start(MODEL)

        assert type(caught.value) is kind
        assert caught.value.status == status
        assert client.instances == ()

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'{"status": "success"}',
        b'{"status":"success","host":"127.0.0.1","port":"99999","instance_id":""}',
    ],
)
async def test_row_005_a_reply_that_says_no_address_may_have_left_an_instance(body: bytes) -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(body=body)

        with pytest.raises(LostInstanceError) as caught:
            await client.start(MODEL)

        assert isinstance(caught.value.__cause__, asyncllm.ResponseValidationError)
        assert client.instances == ()


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"success","instance_id":"a"}',
        b'{"status":"success","host":"evil.example/x?","port":1,"instance_id":"a"}',
        b'{"status":"success","host":"127.0.0.1","port":"99999","instance_id":"a"}',
    ],
)
async def test_row_005_an_instance_with_an_id_and_no_address_is_stopped(body: bytes) -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(body=body)

        with pytest.raises(asyncllm.ResponseValidationError) as caught:
            await client.start(MODEL)

        assert not caught.value.maybe_billed
        assert [request.json() for request in server.seen(STOP)] == [{"instance_id": "a"}]
        assert client.instances == ()


async def test_row_005_an_instance_with_an_id_and_no_address_that_cannot_be_stopped_is_lost() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(body=b'{"instance_id":"a"}')
        server.stop_answers = [Status(400, body=b'{"detail": "no"}')]

        with pytest.raises(LostInstanceError) as caught:
            await client.start(MODEL)

        assert isinstance(caught.value.__cause__, asyncllm.ResponseValidationError)


async def test_row_005_a_connection_that_breaks_may_have_left_an_instance() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Fin()

        with pytest.raises(LostInstanceError):
            await client.start(MODEL)

    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 502, 504])
async def test_row_005_a_relay_without_an_answer_may_have_left_an_instance(status: int) -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(status)

        with pytest.raises(LostInstanceError) as caught:
            await client.start(MODEL)

    assert isinstance(caught.value.__cause__, asyncllm.APIStatusError)


async def test_row_005_a_server_that_is_not_there_has_left_nothing() -> None:
    async with Maze("http://127.0.0.1:9") as client:
        with pytest.raises(asyncllm.APIConnectionError) as caught:
            await client.start(MODEL)

    assert not isinstance(caught.value, LostInstanceError)


# -- 6: leaving --------------------------------------------------------------------------------------------------


async def test_row_006_leaving_the_block_stops_every_instance() -> None:
    async with MazeServer() as server:
        async with maze(server) as client:
            for _ in range(3):
                await client.start(MODEL)
            assert len(server.running) == 3

        assert server.running == {}


async def test_row_006_an_exception_stops_every_instance_and_passes() -> None:
    async with MazeServer() as server:
        with pytest.raises(ZeroDivisionError):
            async with maze(server) as client:
                await client.start(MODEL)
                raise ZeroDivisionError

        assert server.running == {}


@pytest.mark.parametrize("where", ["before the reply", "before it is ready"])
async def test_row_006_a_cancelled_start_is_stopped(where: str) -> None:
    async with MazeServer() as server:
        if where == "before the reply":
            server.start_ops = [Pause(0.3)]
        else:
            server.health = [[Status(503)]] * 1000

        async def use() -> None:
            async with maze(server) as client:
                await client.start(MODEL)

        task = asyncio.create_task(use())
        await server.received(1 if where == "before the reply" else 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert [seen.json() for seen in server.seen(STOP)] == [{"instance_id": "instance-1"}]
        assert server.running == {}


async def test_row_006_a_start_that_was_left_alone_is_stopped_while_others_go_on() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_ops = [Pause(0.3)]
        task = asyncio.create_task(client.start(MODEL))
        await server.received(1)
        task.cancel()

        await server.received(2)

        assert [seen.json() for seen in server.seen(STOP)] == [{"instance_id": "instance-1"}]


async def test_row_006_a_start_whose_reply_never_came_is_reported() -> None:
    async with MazeServer() as server:
        server.start_ops = [Stall()]
        with pytest.raises(LostInstanceError) as caught:
            async with maze(server, linger_s=0.05) as client:
                with pytest.raises(LostInstanceError):
                    await client.start(MODEL, timeout_s=0.05)

    assert caught.value.model == MODEL


async def test_row_006_a_cancellation_with_a_lost_start_stays_one_and_tells_of_it() -> None:
    async with MazeServer() as server:
        server.start_ops = [Stall()]

        async def use() -> None:
            async with maze(server, linger_s=0.05) as client:
                await client.start(MODEL)

        task = asyncio.create_task(use())
        await server.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task

    assert any(MODEL in note for note in caught.value.__notes__)


async def test_row_006_a_detached_instance_outlives_the_block() -> None:
    async with MazeServer() as server:
        async with maze(server) as client:
            client.detach(await client.start(MODEL))

        assert server.running == {"instance-1": MODEL}


async def test_row_006_leaving_while_a_stop_fails_frees_the_others_and_says_so() -> None:
    async with MazeServer() as server:
        with pytest.raises(asyncllm.BadRequestError):
            async with maze(server) as client:
                for _ in range(2):
                    await client.start(MODEL)
                server.stop_answers = [Status(400, body=b'{"detail": "no"}')]

        assert len(server.running) == 1


async def test_row_006_closing_ends_a_start_that_another_task_waits_for() -> None:
    async with MazeServer() as server:
        server.start_ops = [Stall()]
        client = maze(server, linger_s=0.05)
        start = asyncio.create_task(client.start(MODEL))
        await server.received(1)

        with pytest.raises(LostInstanceError):
            await client.aclose()

        with pytest.raises(LostInstanceError):
            await start


async def test_row_006_a_stop_that_is_never_answered_has_an_end() -> None:
    async with MazeServer() as server:
        with pytest.raises(asyncllm.TotalTimeoutError):
            async with maze(server, stop_s=0.05) as client:
                await client.start(MODEL)
                server.stop_answers = [Stall()]


# -- 7: readiness ------------------------------------------------------------------------------------------------


async def test_row_007_partly_an_instance_is_given_out_when_it_is_healthy() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.health = [[Status(503)], [Fin()], [Status(500)]]

        instance = await client.start(MODEL)

        assert len(server.seen("/health")) == 4
        assert (await instance.complete("The sea is")).text == "The sea is"


async def test_row_007_partly_an_instance_without_a_health_route_is_ready_when_it_lists_its_models() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.health = [[Status(404)]]

        await client.start(MODEL)

        assert len(server.seen("/v1/models")) == 1


async def test_row_007_partly_an_instance_that_is_never_ready_is_stopped_with_its_last_word() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.health = [[Status(503, body=b'{"detail": "loading"}')]] * 1000

        with pytest.raises(InstanceNotReadyError) as caught:
            await client.start(MODEL, timeout_s=0.2)

        assert isinstance(caught.value, asyncllm.APITimeoutError)
        assert isinstance(caught.value.__cause__, asyncllm.OverloadedError)
        assert (server.running, client.instances) == ({}, ())


async def test_row_007_partly_an_instance_whose_process_ends_is_found_out_early() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.health = [[Status(503)], *[[Fin()]] * 1000]

        with pytest.raises(InstanceExitedError):
            await client.start(MODEL, timeout_s=60)

        assert (server.running, client.instances) == ({}, ())


async def test_row_007_partly_a_start_that_the_server_only_says_was_a_success_is_found_out() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.instance_port = 9  # nobody is there

        with pytest.raises(InstanceNotReadyError) as caught:
            await client.start(MODEL, timeout_s=0.2)

        assert isinstance(caught.value.__cause__, asyncllm.APIConnectionError)
        assert server.running == {}


# -- 8: many at once ---------------------------------------------------------------------------------------------


async def test_row_008_queries_overlap_on_one_loop() -> None:
    count = 20
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)
        server.query_ops = [Stall()]
        tasks = [asyncio.create_task(instance.complete(f"{number} waves")) for number in range(count)]

        await server.received(2 + count)  # none of them has been answered

        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.query_ops = []
        replies = await asyncio.gather(*(instance.complete(f"{number} waves") for number in range(count)))
    assert [reply.text for reply in replies] == [f"{number} waves" for number in range(count)]


async def test_row_008_a_slow_start_blocks_nobody() -> None:
    async with MazeServer() as server:
        with pytest.raises(LostInstanceError):
            async with maze(server, linger_s=0.05) as client:
                instance = await client.start(MODEL)
                server.start_ops = [Stall()]
                slow = asyncio.create_task(client.start("a/slow-one"))
                await server.received(3)

                reply = await instance.complete("The sea is")
                await instance.stop()

                assert not slow.done()
                assert reply.text == "The sea is"
                slow.cancel()


# -- and beside the rows, by the row that is nearest -------------------------------------------------------------


async def test_row_001_a_slash_at_the_end_of_the_address_is_none_of_the_path() -> None:
    async with MazeServer() as server, Maze(f"{server.url}/", poll_s=0.01) as client:
        await client.start(MODEL)

        assert len(server.seen(START)) == 1


async def test_row_001_a_client_that_is_closed_starts_nothing() -> None:
    async with MazeServer() as server:
        async with maze(server) as client:
            pass
        await client.aclose()

        with pytest.raises(asyncllm.APIConnectionError, match="closed"):
            await client.start(MODEL)

        assert not server.requests


async def test_row_003_an_address_that_is_none_is_refused_by_name() -> None:
    async with Maze() as client:
        for host, port, field in (("a/b", 8000, "host"), ("::1 ", 8000, "host"), ("h", 0, "port"), ("h", "x", "port")):
            with pytest.raises(asyncllm.ConfigError) as caught:
                client.attach("i", host=host, port=port, model=MODEL)
            assert caught.value.field == field
        with pytest.raises(asyncllm.ConfigError) as caught:
            client.attach("i", host="h", port=8000, model="")
        assert caught.value.field == "model"


def test_row_001_headers_are_a_dict() -> None:
    headers: Any = 5
    with pytest.raises(asyncllm.ConfigError) as caught:
        Maze(headers=headers)

    assert caught.value.field == "headers"


async def test_row_002_an_address_of_version_6_stands_in_brackets() -> None:
    async with Maze() as client:
        assert client.attach("i", host="::1", port=8000, model=MODEL).endpoint == "http://[::1]:8000/v1"


async def test_row_003_chats_and_streams_go_to_the_instance_too() -> None:
    async with MazeServer() as server, maze(server) as client:
        instance = await client.start(MODEL)

        assert await instance.client.is_alive()
        assert [one.id for one in await instance.client.list_models()] == [MODEL]


async def test_row_004_an_id_that_nobody_knows_is_an_error_without_a_call() -> None:
    async with MazeServer() as server, maze(server) as client:
        with pytest.raises(UnknownInstanceError):
            client.get("nobody")

    assert not server.requests


async def test_row_002_the_servers_own_words_are_kept() -> None:
    async with MazeServer() as server, maze(server) as client:
        server.start_answer = Status(
            body=msgspec.json.encode(
                {"status": "success", "host": "127.0.0.1", "port": server.port, "instance_id": "i", "gpu": 3}
            )
        )

        instance = await client.start(MODEL)

        assert instance.info["gpu"] == 3
