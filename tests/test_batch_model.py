"""The store of a batch, against a model: any order of what runners do, on the disk and in memory."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from asyncllm.workspace.records import RowStatus
from batch_model import LEASE_S, Actor, World, simulated

BODIES = st.binary(min_size=1, max_size=20)
PICK = st.integers(0, 1_000_000)
OUTCOMES = (RowStatus.DONE, RowStatus.FAILED, RowStatus.ABANDONED)


class Machine(RuleBasedStateMachine):
    """What runners do, in any order."""

    in_memory = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = [1000.0]
        self.simulated = simulated(self.clock)
        self.simulated.__enter__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.world = World(self.folder, self.clock, in_memory=self.in_memory)

    def teardown(self) -> None:
        self.world.close()
        self.simulated.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def actor(self, pick: int, *, leased: bool = True) -> Actor | None:
        """A runner, for the most part the one that leads."""
        actors = [actor for actor in self.world.actors if actor.lease is not None or not leased]
        leading = [actor for actor in actors if self.world.leads(actor)]
        return ([*actors, *leading * 3][pick % (len(actors) + 3 * len(leading))]) if actors else None

    def row(self, pick: int) -> int:
        return pick % len(self.world.rows)

    @precondition(lambda self: len(self.world.actors) < 4)
    @rule()
    def come(self) -> None:
        self.world.open()

    @precondition(lambda self: len(self.world.actors) > 1)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        actor = self.actor(pick, leased=False)
        assert actor is not None
        self.world.die(actor)

    @rule(pick=PICK)
    def take(self, pick: int) -> None:
        actors = self.world.actors
        self.world.take(actors[pick % len(actors)])

    @rule(pick=PICK)
    def steal(self, pick: int) -> None:
        self.clock[0] += LEASE_S + 1
        self.take(pick)

    @rule(seconds=st.floats(0, LEASE_S))
    def step_clock(self, seconds: float) -> None:
        self.clock[0] += seconds

    @precondition(lambda self: self.actor(0) is not None)
    @rule(pick=PICK, what=st.sampled_from(("show_life", "leave", "reopen")))
    def do(self, pick: int, what: str) -> None:
        actor: Any = self.actor(pick)
        getattr(self.world, what)(actor)

    @rule()
    def cancel(self) -> None:
        self.world.cancel(self.world.actors[0])

    @precondition(lambda self: self.actor(0) is not None and len(self.world.rows) < 30)
    @rule(pick=PICK, count=st.integers(0, 5))
    def submit(self, pick: int, count: int) -> None:
        actor: Any = self.actor(pick)
        self.world.submit(actor, count)

    @precondition(lambda self: self.actor(0) is not None and self.world.rows)
    @rule(
        pick=PICK,
        row=PICK,
        body=BODIES,
        status=st.sampled_from(OUTCOMES),
        what=st.sampled_from(("begin", "begin", "finish", "finish", "refuse", "again", "full", "another")),
    )
    def work(self, pick: int, row: int, body: bytes, status: RowStatus, what: str) -> None:
        world, actor, index = self.world, self.actor(pick), self.row(row)
        assert actor is not None
        match what:
            case "begin":
                world.begin(actor, index)
            case "finish":
                world.finish(actor, index, status, body)
            case "refuse" | "again":
                world.put_back(actor, index, counts=what == "again")
            case "full":
                world.finish_while_full(actor, index, body)
            case _:
                world.submit_another(actor, index)

    @invariant()
    def the_store_has_what_the_model_has(self) -> None:
        self.world.check(self.world.actors[-1])


class InMemory(Machine):
    """The same without a disk."""

    in_memory = True


def run(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("machine", "examples"), [(Machine, 60), (InMemory, 300)])
def test_a_store_has_what_its_model_has_after_any_steps(machine: type[Machine], examples: int) -> None:
    run(machine, examples)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("machine", "examples"), [(Machine, 200), (InMemory, 2000)])
def test_a_store_has_what_its_model_has_after_very_many_steps(machine: type[Machine], examples: int) -> None:
    run(machine, examples)


def rivals(world: World, seed: int) -> None:
    """Two to eight runners, each of which dies, stands still, wakes up and works, in an order drawn by `seed`."""
    drawn = random.Random(seed)
    for _ in range(drawn.randint(1, 7)):
        world.open()
    world.take(world.actors[0])
    world.submit(world.actors[0], 6)
    for _ in range(60):
        actor = drawn.choice(world.actors)
        if actor.lease is None or drawn.random() < 0.15:
            world.clock[0] += drawn.choice((0, 1, LEASE_S + 1))
            world.take(actor)
            continue
        index = drawn.randrange(len(world.rows))
        match drawn.choice(("begin", "begin", "begin", "finish", "finish", "finish", "beat", "leave", "die")):
            case "begin":
                world.begin(actor, index)
            case "finish":
                world.finish(actor, index, drawn.choice(OUTCOMES), b"by %d" % actor.lease.fence)
            case "beat":
                world.show_life(actor)
            case "leave":
                world.leave(actor)
            case _:
                world.die(actor)
                world.open()
    world.check(world.actors[0])


def test_of_many_rivals_only_the_one_that_leads_writes(tmp_path: Path) -> None:
    for seed in range(276):
        clock = [1000.0]
        folder = tmp_path / str(seed)
        folder.mkdir()
        with simulated(clock):
            world = World(folder, clock, in_memory=True)
            try:
                rivals(world, seed)
            finally:
                world.close()
