"""Rows worked off by a service's own batches: parts, each made once wherever the process ends, and outcomes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anthropic_batch_server import AnthropicBatchServer
from asyncllm import BadRequestError, InvalidRequestError, NotFoundError, Regex, UnsupportedError
from asyncllm.backend import (
    BatchItem,
    BatchLimits,
    BatchOutcome,
    BatchState,
    HttpCall,
    HttpReply,
    Transport,
)
from asyncllm.batch.parts import Part, VendorSettings, index_of, item_id, split
from asyncllm.batch.vendor import deliver, run_vendor, settle, wait
from asyncllm.errors import (
    APIError,
    JobFailedError,
    OverloadedError,
    ResponseValidationError,
    RowAbandonedError,
    StreamInterrupted,
)
from asyncllm.testing import ManualClock, Op, SeenRequest, Status
from asyncllm.transport import AiohttpTransport
from batch_talks import chat, serving, text
from openai_batch_server import OpenAIBatchServer, refusal


class Dead(BaseException):
    """The process ends here."""


class Memory:
    """A ledger that outlives a run; `reach` is told of each step before and after it is durable."""

    def __init__(self, reach: Callable[[str], None] = lambda _: None) -> None:
        self.reach = reach
        self.parts: dict[str, Part] = {}
        self.over: dict[str, BatchState] = {}
        self.outcomes: dict[str, BatchOutcome] = {}
        self.told = 0

    async def intent(self, part: Part) -> None:
        self.reach("before intent")
        assert part.token not in self.parts
        self.parts[part.token] = msgspec.structs.replace(part, is_begun=True)
        self.reach("after intent")

    async def created(self, part: Part, batch_id: str) -> None:
        self.reach("before created")
        self.parts[part.token] = msgspec.structs.replace(self.parts[part.token], batch_id=batch_id)
        self.reach("after created")

    async def withdrawn(self, part: Part) -> None:
        del self.parts[part.token]

    async def outcome(self, outcome: BatchOutcome) -> None:
        self.reach("before outcome")
        self.told += 1
        self.outcomes.setdefault(outcome.id, outcome)
        self.reach("after outcome")

    async def done(self, part: Part, state: BatchState) -> None:
        self.reach("before done")
        self.over[part.token] = state
        self.reach("after done")

    @property
    def begun(self) -> list[Part]:
        return [part for token, part in self.parts.items() if token not in self.over]

    @property
    def taken(self) -> set[str]:
        return {item.id for part in self.parts.values() for item in part.items} | self.outcomes.keys()


async def each(items: Iterable[BatchItem]) -> AsyncIterator[BatchItem]:
    for item in items:
        yield item


def rows(*told: str, make: Any = chat) -> list[BatchItem]:
    return [BatchItem(item_id(at), make(one)) for at, one in enumerate(told)]


class Sized:
    """Batches whose items are as large as their texts."""

    def __init__(self, limits: BatchLimits) -> None:
        self.batch_limits = limits

    def batch_item_size(self, item: BatchItem) -> int:
        told = item.request.messages[-1].text if item.request.is_chat else str(item.request.prompt)
        if told == "bad":
            raise UnsupportedError("no", field="bad")
        return len(told)


async def parts_of(limits: BatchLimits, items: Sequence[BatchItem]) -> list[Part | BatchOutcome]:
    return [piece async for piece in split(Sized(limits), each(items))]  # type: ignore[arg-type]


# -- into parts --------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 12), max_size=60),
    most=st.none() | st.integers(1, 9),
    room=st.none() | st.integers(12, 40),
)
@settings(deadline=None)
async def test_parts_are_as_large_as_the_limits_allow_and_hold_everything_in_order(
    sizes: list[int], most: int | None, room: int | None
) -> None:
    items = rows(*("x" * size for size in sizes))

    pieces = await parts_of(BatchLimits(items=most, bytes=room), items)

    parts = [piece for piece in pieces if isinstance(piece, Part)]
    assert [item for part in parts for item in part.items] == items
    assert len({part.token for part in parts}) == len(parts)
    filled = [(len(part.items), sum(len(item.request.messages[-1].text) for item in part.items)) for part in parts]
    assert all(count <= (most or count) and size <= (room or size) for count, size in filled)
    for (count, size), following in zip(filled, parts[1:], strict=False):
        first = len(following.items[0].request.messages[-1].text)
        assert count == most or (room is not None and size + first > room)


async def test_models_and_kinds_of_calls_have_parts_of_their_own() -> None:
    items = [
        BatchItem("a", chat("1", "m")), BatchItem("b", chat("2", "n")), BatchItem("c", text("3", "m")),
        BatchItem("d", chat("4", "m")),
    ]  # fmt: skip

    parts = await parts_of(BatchLimits(), items)

    assert [(part.model, [item.id for item in part.items]) for part in parts if isinstance(part, Part)] == [
        ("m", ["a", "d"]), ("n", ["b"]), ("m", ["c"])
    ]  # fmt: skip


async def test_an_item_that_cannot_be_sent_is_an_outcome_and_costs_nobody_else() -> None:
    pieces = await parts_of(BatchLimits(bytes=5), rows("ok", "bad", "too long", "ok"))

    refused, large, part = pieces
    assert isinstance(refused, BatchOutcome)
    assert isinstance(large, BatchOutcome)
    assert isinstance(part, Part)
    assert (refused.id, type(refused.error)) == ("row-1", UnsupportedError)
    assert (large.id, type(large.error)) == ("row-2", InvalidRequestError)
    assert [item.id for item in part.items] == ["row-0", "row-3"]


@given(st.integers(0, 10**9))
def test_an_item_is_mapped_back_to_its_row(index: int) -> None:
    assert index_of(item_id(index)) == index


@pytest.mark.parametrize("id_", ["7", "row-", "row-x", "row-٣", "row--1"])
def test_the_id_of_no_row_is_refused(id_: str) -> None:
    with pytest.raises(ResponseValidationError):
        index_of(id_)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"in_flight": 0}, "in_flight"), ({"interval_s": 0}, "interval_s"), ({"longest_s": 0.5}, "interval_s")],
)
def test_settings_that_cannot_be_right_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        VendorSettings(**given)

    assert caught.value.field == field


# -- waited for --------------------------------------------------------------------------------------------------


class Looks:
    """A service that answers looks by script."""

    def __init__(self, *answers: BatchState | APIError | str) -> None:
        self.answers = list(answers)

    async def get_batch(self, id_: str) -> BatchState:
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            answer = BatchState(id=id_, status=answer)  # type: ignore[arg-type]
        if isinstance(answer, APIError):
            raise answer
        return answer


async def waited(*answers: BatchState | APIError | str, **options: Any) -> tuple[BatchState, ManualClock]:
    clock = ManualClock(instant=True)
    state = BatchState(id="b", status="queued")
    looks: Any = Looks(*answers)
    return await wait(looks, state, clock=clock, settings=VendorSettings(**options)), clock


async def test_waits_grow_from_one_second_to_a_minute() -> None:
    _, clock = await waited(*["running"] * 30, "succeeded")

    assert 0.8 <= clock.sleeps[0] <= 1.2
    assert all(48 <= one <= 72 for one in clock.sleeps[12:])
    assert all(after > 0.9 * before for before, after in zip(clock.sleeps[:8], clock.sleeps[1:9], strict=True))


async def test_the_service_may_ask_for_more_time() -> None:
    _, clock = await waited(BatchState(id="b", status="running", retry_after_s=300), "succeeded")

    assert clock.sleeps[1] == 300


async def test_a_status_that_goes_back_is_not_believed() -> None:
    seen: list[str] = []
    looks: Any = Looks("running", "queued", "succeeded")
    clock = ManualClock(instant=True)

    await wait(looks, BatchState(id="b", status="queued"), clock=clock, tell=lambda one: seen.append(one.status))

    assert seen == ["running", "running", "succeeded"]


async def test_failures_that_may_pass_are_let_pass() -> None:
    state, _ = await waited(
        *[OverloadedError("busy", status=503)] * 10, "running", OverloadedError("busy"), "succeeded"
    )

    assert state.status == "succeeded"


async def test_failures_that_do_not_pass_are_raised() -> None:
    with pytest.raises(OverloadedError):
        await waited(*[OverloadedError("busy", status=503)] * 11)
    with pytest.raises(BadRequestError):
        await waited(BadRequestError("no", status=400))


async def test_a_new_batch_may_not_be_known_for_a_minute() -> None:
    state, _ = await waited(NotFoundError("none", status=404), NotFoundError("none", status=404), "succeeded")

    assert state.status == "succeeded"
    with pytest.raises(NotFoundError):
        await waited(*[NotFoundError("none", status=404)] * 30)


# -- told --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ended(service: OpenAIBatchServer, *told: str, status: str = "completed") -> AsyncIterator[Any]:
    """A batch that has ended, as `deliver` gets it."""
    async with serving(service, "openai", "/v1") as (server, backend):
        part = Part(token="t", model="gpt-x", items=rows(*told))
        ledger = Memory()
        clock = ManualClock(instant=True)
        await settle(backend, part, ledger, clock=clock)
        service.end(status)
        state = await backend.get_batch("batch_1")
        yield server, backend, part, state, ledger, clock


async def test_results_that_break_off_are_fetched_again_and_told_once() -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b", "c") as (_, backend, part, state, ledger, clock):
        service.truncate = [len(service.files["batch_1-output_file_id"]) // 2, 5]
        await deliver(backend, part, state, ledger, clock=clock)

    assert ledger.told == 3
    assert {id_: one.response.text for id_, one in ledger.outcomes.items()} == {
        "row-0": "a", "row-1": "b", "row-2": "c"
    }  # fmt: skip
    assert ledger.over.keys() == {"t"}


async def test_results_that_always_break_off_are_an_error_and_the_part_is_not_done() -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b") as (_, backend, part, state, ledger, clock):
        service.truncate = [10] * 5
        with pytest.raises(StreamInterrupted):
            await deliver(backend, part, state, ledger, clock=clock)

    assert not ledger.over


@pytest.mark.parametrize(("status", "code"), [("expired", "expired"), ("cancelled", "cancelled")])
async def test_an_item_that_was_never_reached_has_an_error_though_nobody_names_it(status: str, code: str) -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b", status=status) as (_, backend, part, state, ledger, clock):
        del service.files["batch_1-error_file_id"]
        service.batches[0]["error_file_id"] = None
        await deliver(backend, part, state, ledger, clock=clock)

    error = ledger.outcomes["row-1"].error
    assert isinstance(error, RowAbandonedError)
    assert error.code == code
    assert ledger.outcomes["row-0"].response.text == "a"


async def test_every_item_of_a_batch_that_failed_has_its_error() -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b", status="failed") as (_, backend, part, state, ledger, clock):
        await deliver(backend, part, state, ledger, clock=clock)

    assert [type(one.error) for one in ledger.outcomes.values()] == [JobFailedError] * 2


async def test_what_results_say_twice_or_of_nobody_does_not_count() -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b") as (_, backend, part, state, ledger, clock):
        name = "batch_1-output_file_id"
        lines = service.files[name].splitlines(keepends=True)
        service.files[name] = b"".join([*lines, *lines, lines[0].replace(b"row-1", b"row-7")])
        await deliver(backend, part, state, ledger, clock=clock)

    assert ledger.outcomes.keys() == {"row-0", "row-1"}
    assert ledger.told == 2


async def test_an_item_whose_line_cannot_be_read_has_an_error() -> None:
    service = OpenAIBatchServer()
    async with ended(service, "a", "b") as (_, backend, part, state, ledger, clock):
        name = "batch_1-output_file_id"
        first, second = service.files[name].splitlines(keepends=True)
        service.files[name] = first[:20] + b"\n" + second
        await deliver(backend, part, state, ledger, clock=clock)

    assert ledger.outcomes["row-0"].response.text == "a"
    assert isinstance(ledger.outcomes["row-1"].error, ResponseValidationError)


# -- made once ---------------------------------------------------------------------------------------------------


async def test_a_run_makes_its_parts_and_tells_of_every_row() -> None:
    service = OpenAIBatchServer(page=3)
    ledger = Memory()
    constrained = msgspec.structs.replace(chat("e"), constraint=Regex("a"))
    async with serving(service, "openai", "/v1") as (_, backend):
        backend.batch_limits = BatchLimits(items=2)
        seen: list[BatchState] = []
        await run_vendor(
            backend,
            each([*rows("a", "refuse b", "c", "d"), BatchItem("row-4", constrained)]),
            ledger,
            clock=ManualClock(instant=True),
            settings=VendorSettings(in_flight=2, labels={"team": "x"}),
            tell=seen.append,
        )

    assert service.created == 2
    assert {batch["metadata"]["team"] for batch in service.batches} == {"x"}
    assert ledger.outcomes.keys() == {f"row-{at}" for at in range(5)}
    assert isinstance(ledger.outcomes["row-1"].error, BadRequestError)
    assert isinstance(ledger.outcomes["row-4"].error, UnsupportedError)
    assert not ledger.begun
    assert {one.status for one in seen} == {"running", "succeeded"}


@pytest.mark.parametrize(("fate", "made"), [("before", 1), ("after", 1), ("500", 1), ("503", 1)])
async def test_a_part_whose_creation_was_not_answered_is_looked_for_before_it_is_made_again(
    fate: str, made: int
) -> None:
    service = OpenAIBatchServer()
    service.lose = [fate]
    ledger = Memory()
    async with serving(service, "openai", "/v1") as (_, backend):
        await run_vendor(backend, each(rows("a", "b")), ledger, clock=ManualClock(instant=True))

    assert service.created == made
    assert len(ledger.outcomes) == 2


async def test_a_batch_that_is_listed_late_is_not_made_twice() -> None:
    service = OpenAIBatchServer()
    service.lose = ["after"]
    looks = 0

    def late(request: SeenRequest) -> Sequence[Op]:
        nonlocal looks
        if request.method == "GET" and request.path.startswith("/v1/batches?"):
            looks += 1
            if looks < 5:
                return [Status(body=b'{"data": []}')]
        return service(request)

    ledger = Memory()
    async with serving(late, "openai", "/v1") as (_, backend):
        await run_vendor(backend, each(rows("a")), ledger, clock=ManualClock(instant=True))

    assert (service.created, looks) == (1, 5)


async def test_a_part_that_is_refused_is_withdrawn_and_no_other_is_begun() -> None:
    service = OpenAIBatchServer()

    def refuse(request: SeenRequest) -> Sequence[Op]:
        return refusal(400, "billing_hard_limit", "no") if request.path == "/v1/batches" else service(request)

    ledger = Memory()
    async with serving(refuse, "openai", "/v1") as (server, backend):
        backend.batch_limits = BatchLimits(items=1)
        with pytest.raises(BadRequestError):
            await run_vendor(
                backend,
                each(rows("a", "b", "c")),
                ledger,
                clock=ManualClock(instant=True),
                settings=VendorSettings(in_flight=1),
            )

    assert not ledger.parts
    assert [one.path for one in server.requests].count("/v1/batches") == 1


async def test_a_service_that_is_busy_is_asked_again() -> None:
    service = OpenAIBatchServer()
    busy = [refusal(429, "token_limit_exceeded", "queue is full")] * 3

    def later(request: SeenRequest) -> Sequence[Op]:
        return busy.pop() if request.path == "/v1/batches" and busy else service(request)

    ledger = Memory()
    async with serving(later, "openai", "/v1") as (_, backend):
        await run_vendor(backend, each(rows("a")), ledger, clock=ManualClock(instant=True))

    assert (service.created, len(ledger.outcomes)) == (1, 1)


@pytest.mark.parametrize("fate", ["before", "after"])
async def test_where_nobody_can_ask_a_lost_creation_is_an_error_and_not_made_again(fate: str) -> None:
    service = AnthropicBatchServer()
    service.lose = [fate]
    ledger = Memory()
    clock = ManualClock(instant=True)
    async with serving(service, "anthropic") as (server, backend):
        with pytest.raises(UnsupportedError) as first:
            await run_vendor(backend, each(rows("a")), ledger, clock=clock)
        with pytest.raises(UnsupportedError) as second:
            await run_vendor(backend, each(()), ledger, clock=clock, begun=ledger.begun)

    assert first.value.maybe_billed
    assert second.value.maybe_billed
    assert "when the connection was lost" in first.value.message
    assert "when an earlier run ended" in second.value.message
    assert len(server.requests) == 1
    assert [part.is_begun for part in ledger.begun] == [True]


async def test_where_nobody_can_ask_one_may_say_that_it_is_to_be_made_again() -> None:
    service = AnthropicBatchServer()
    service.lose = ["before"]
    ledger = Memory()
    async with serving(service, "anthropic") as (_, backend):
        await run_vendor(
            backend,
            each(rows("a")),
            ledger,
            clock=ManualClock(instant=True),
            settings=VendorSettings(may_repeat=True),
        )

    assert service.created == 1
    assert ledger.outcomes["row-0"].response.text == "a"  # type: ignore[union-attr]


class Mortal:
    """A transport whose process may end before a call is sent, or once it was answered."""

    def __init__(self, inner: Transport, reach: Callable[[str], None]) -> None:
        self._inner = inner
        self._reach = reach

    def open(self, call: HttpCall, /) -> AbstractAsyncContextManager[HttpReply]:
        return self._open(call)

    @asynccontextmanager
    async def _open(self, call: HttpCall) -> AsyncIterator[HttpReply]:
        self._reach(f"before {call.method}")
        async with self._inner.open(call) as reply:
            self._reach(f"after {call.method}")
            yield reply

    async def aclose(self) -> None:
        await self._inner.aclose()


class Fate:
    """Lets the process live for some steps, as often as it is told to."""

    def __init__(self, *lives: int) -> None:
        self._lives = list(lives)
        self._left: int | None = None
        self.died: list[str] = []

    def begin(self) -> None:
        self._left = self._lives.pop(0) if self._lives else None

    def reach(self, step: str) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            self._left = None
            self.died.append(step)
            raise Dead(step)


async def until_done(fate: Fate, service: OpenAIBatchServer, ledger: Memory, items: list[BatchItem]) -> None:
    """Run, and run again after each death."""
    is_over = False
    while not is_over:
        fate.begin()
        transport = Mortal(AiohttpTransport(), fate.reach)
        async with serving(service, "openai", "/v1", transport=transport) as (_, backend):
            backend.batch_limits = BatchLimits(items=4)
            try:
                await run_vendor(
                    backend,
                    each([item for item in items if item.id not in ledger.taken]),
                    ledger,
                    clock=ManualClock(instant=True),
                    begun=ledger.begun,
                    settings=VendorSettings(in_flight=1, patience_s=3),
                )
                is_over = True
            except* Dead:
                pass


def is_right(ledger: Memory, service: OpenAIBatchServer, items: list[BatchItem]) -> bool:
    told = {id_: one.response.text if one.response else None for id_, one in ledger.outcomes.items()}
    tokens = [batch["metadata"]["asyncllm_token"] for batch in service.batches]
    return told == {item.id: item.request.messages[-1].text for item in items} and len(set(tokens)) == len(tokens)


@pytest.mark.parametrize("seed", range(200))
async def test_a_batch_is_made_once_wherever_the_process_ends(seed: int) -> None:
    draw = random.Random(seed)
    # Every step of a run of one part in turn, and after each a death or two anywhere.
    fate = Fate(seed % 40, *(draw.randrange(40) for _ in range(draw.randrange(3))))
    service, ledger, items = OpenAIBatchServer(), Memory(fate.reach), rows("a", "b", "c")

    await until_done(fate, service, ledger, items)

    assert service.created == 1
    assert is_right(ledger, service, items)


@pytest.mark.parametrize("seed", range(25))
async def test_several_parts_are_each_made_once_wherever_the_process_ends(seed: int) -> None:
    draw = random.Random(seed)
    fate = Fate(*(draw.randrange(90) for _ in range(4)))
    service, ledger = OpenAIBatchServer(), Memory(fate.reach)
    items = rows(*map(str, range(12)))

    await until_done(fate, service, ledger, items)

    assert service.created == 3
    assert is_right(ledger, service, items)


async def test_the_schedules_end_a_process_at_every_kind_of_step() -> None:
    died: set[str] = set()
    for life in range(40):
        fate = Fate(life)
        await until_done(fate, OpenAIBatchServer(), Memory(fate.reach), rows("a", "b", "c"))
        died |= set(fate.died)

    assert died == {
        "before intent", "after intent", "before POST", "after POST", "before created", "after created", "before GET",
        "after GET", "before outcome", "after outcome", "before done", "after done",
    }  # fmt: skip
