"""Keys in a store: what is kept of them, who knows them again, and for how long they are good."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.errors import ConfigError, CorruptStoreError, InternalServerError, StoreError
from asyncllm.server.keys.keyring import Keyring
from asyncllm.workspace.keys import Grants, Ring
from asyncllm.workspace.served import ServerStore

SOURCE = Path(__file__).parent.parent / "asyncllm"


@asynccontextmanager
async def stored(folder: Path) -> AsyncGenerator[ServerStore]:
    async with ServerStore(folder) as store:
        yield store


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def is_private(folder: Path) -> bool:
    return not any(path.stat().st_mode & 0o077 for path in folder.rglob("*"))


async def known(store: ServerStore, token: str, now: float | None = None) -> str | None:
    """The id of the key that `token` is."""
    key = (await store.keys.ring()).find(token, time.time() if now is None else now)
    return None if key is None else key.id


async def test_a_key_is_known_by_its_whole_text_and_by_nothing_else(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        key, token = await store.keys.add("phone", tenant="acme")
        other, other_token = await store.keys.add("phone", tenant="acme")
        head, secret = token[:16], token[16:]

        assert await known(store, token) == key.id
        assert await known(store, other_token) == other.id
        for wrong in ("", head, token[:-1], token + "A", token.upper(), f" {token}", f"{token}\n", f"{token}\0",
                      head + "A" * 43, f"al_{other.id}_{secret}", f"al_{'0' * 12}_{secret}"):  # fmt: skip
            assert await known(store, wrong) is None


@given(st.text() | st.text("al_0123456789abcdefXYZ-_\0\n\udcff", max_size=80))
def test_no_text_is_a_key_that_was_not_made(text: str) -> None:
    assert Ring(0, b"", {}).find(text, 0) is None


async def test_neither_the_database_nor_what_is_told_has_a_key(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        key, first = await store.keys.add("phone")
        rotated = await store.keys.rotate(key.id, overlap_s=60)
        assert rotated is not None
        ring = await store.keys.ring()
        shown = repr((key, rotated[0], await store.keys.list(), ring, store))
        kept = contents(tmp_path)

    kept += contents(tmp_path)
    for token in (first, rotated[1]):
        secret = token[16:]
        assert secret not in shown
        assert secret.encode() not in kept
        assert not any(secret[at : at + 8].encode() in kept for at in range(len(secret) - 8))
    assert is_private(tmp_path)


async def test_a_key_ends_at_its_moment(tmp_path: Path) -> None:
    until = time.time() + 1000
    async with stored(tmp_path) as store:
        key, token = await store.keys.add("phone", expires_at=until)

        assert await known(store, token, until - 0.001) == key.id
        assert await known(store, token, until) is None
        with pytest.raises(ConfigError, match="in the future"):
            await store.keys.add("phone", expires_at=time.time() - 1)


async def test_a_new_secret_leaves_the_one_before_its_time_and_no_other(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        key, first = await store.keys.add("phone", tenant="acme", grants=Grants(models=("a",)))
        at = time.time()
        again = await store.keys.rotate(key.id, overlap_s=100)
        assert again is not None
        assert again[0] == key
        assert await known(store, first, at + 99) == await known(store, again[1], at + 1e6) == key.id
        assert await known(store, first, at + 200) is None

        last = await store.keys.rotate(key.id)
        assert last is not None
        assert [await known(store, token) for token in (first, again[1], last[1])] == [None, None, key.id]


async def test_what_is_taken_back_is_never_given_again(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        key, token = await store.keys.add("phone")
        revoked = await store.keys.revoke(key.id)
        again = await store.keys.revoke(key.id)

        assert revoked == again
        assert revoked is not None
        assert not revoked.is_good(0)
        assert await known(store, token) is None
        with pytest.raises(ConfigError, match="revoked"):
            await store.keys.rotate(key.id)
        assert [await store.keys.revoke("0" * 12), await store.keys.rotate("0" * 12)] == [None, None]


async def test_a_workspace_whose_secret_is_lost_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        await store.keys.add("phone")
    (tmp_path / "pepper").unlink()
    async with stored(tmp_path) as store:
        for ask in (store.keys.ring(), store.keys.add("other")):
            with pytest.raises(StoreError, match="pepper.*not there"):
                await ask


async def test_many_processes_that_make_the_first_key_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    stores = [ServerStore(tmp_path) for _ in range(4)]
    async with contextlib.AsyncExitStack() as opened:
        for store in stores:
            await opened.enter_async_context(store)
        made = await asyncio.gather(*(store.keys.add("phone") for store in stores))

        assert [await known(stores[0], token) for _, token in made] == [key.id for key, _ in made]


async def test_grants_that_are_damaged_let_nobody_in(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        _, token = await store.keys.add("phone")
        apsw.Connection(str(tmp_path / "store.db")).execute("UPDATE api_key SET grants = x'7b'")

        with pytest.raises(CorruptStoreError):
            await known(store, token)


# -- at hand


class Counting:
    """A store of keys that counts how often it is asked, and fails when told to."""

    def __init__(self, store: ServerStore) -> None:
        self._store = store
        self.asked = 0
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def ring(self, known: Ring | None = None) -> Ring:
        self.asked += 1
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return await self._store.keys.ring(known)


async def test_a_flood_of_keys_that_nobody_made_hardly_asks_the_store(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        _, token = await store.keys.add("phone")
        counting: Any = Counting(store)
        ring = Keyring(counting, apart_s=0.2)
        began = time.monotonic()
        found = await asyncio.gather(*(ring.find(f"al_{n:012}_{'A' * 43}") for n in range(2000)), ring.find(token))
        took = time.monotonic() - began

        assert [key is not None for key in found] == [False] * 2000 + [True]
        assert counting.asked <= 2 + took / 0.2
        asked = counting.asked
        await asyncio.gather(*(ring.find(text) for text in ("", "sk-other", "al_", "al_x_y", "\0" * 8192)))
        assert counting.asked == asked


async def test_a_key_that_another_process_has_just_made_is_good_and_one_it_took_back_is_not(tmp_path: Path) -> None:
    async with stored(tmp_path) as ours, stored(tmp_path) as theirs:
        ring = Keyring(ours.keys, apart_s=0)
        assert await ring.find(f"al_{'0' * 12}_{'A' * 43}") is None
        key, token = await theirs.keys.add("phone")
        assert await ring.find(token) == key

        strict = Keyring(ours.keys, known_s=0, apart_s=0)
        assert await strict.find(token) == key
        await theirs.keys.revoke(key.id)
        assert await strict.find(token) is None
        began = time.monotonic()
        while await ring.find(token) is not None:  # noqa: ASYNC110  # it is told by nobody
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1 + 1  # the bound, and a slow machine


async def test_no_key_is_good_where_the_store_does_not_tell(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        _, token = await store.keys.add("phone")
        counting: Any = Counting(store)
        ring = Keyring(counting, known_s=0, apart_s=0)
        assert await ring.find(token) is not None
        for fault in (StoreError("x"), RuntimeError("x"), OSError("x")):
            counting.fault = fault
            with pytest.raises(InternalServerError) as caught:
                await ring.find(token)
            assert (caught.value.status, caught.value.code) == (503, "store")
        counting.fault = None
        assert await ring.find(token) is not None


async def test_whoever_leaves_while_keys_are_read_takes_nothing_from_others(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        _, token = await store.keys.add("phone")
        counting: Any = Counting(store)
        counting.gate.clear()
        ring = Keyring(counting)
        tasks = [asyncio.create_task(ring.find(token)) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        counting.gate.set()

        assert all([await task is not None for task in tasks[1:]])
        assert (await asyncio.gather(tasks[0], return_exceptions=True))[0].__class__ is asyncio.CancelledError
        assert counting.asked == 1


async def test_keys_are_known_while_another_process_holds_up_every_write(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        key, token = await store.keys.add("phone")
        rival = apsw.Connection(str(tmp_path / "store.db"))
        rival.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.keys.add("waits"))
        try:
            assert await Keyring(store.keys, known_s=0).find(token) == key
            assert not writing.done()
        finally:
            rival.execute("ROLLBACK")
            rival.close()
        await writing


# -- lint and timing


LOOKED_AT = {"beyond", "column", "more", "order", "where"}
"""Names in statements that hold words of ours in every way the program can take."""


def is_of_ours(part: ast.expr) -> bool:
    """Whether a part of a statement is known before the program runs: a constant, or made of constants alone."""
    if isinstance(part, ast.Name):
        return part.id.lstrip("_").isupper() or part.id in LOOKED_AT
    if isinstance(part, ast.JoinedStr):
        return all(is_of_ours(one.value) for one in part.values if isinstance(one, ast.FormattedValue))
    if isinstance(part, ast.Call):
        return all(is_of_ours(one) for one in (*part.args, *(word.value for word in part.keywords)))
    return isinstance(part, ast.Constant)


def test_no_statement_is_put_together_from_values() -> None:
    places = {path: path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    # Columns to set, which every caller of these spells out, and pragmas with numbers of the code's own.
    excused = {"_change": 2, "_change_part": 2}
    found: list[str] = []
    searched = 0
    for path, text in places.items():
        if ".execute(" not in text or path.name == "database.py":
            continue
        for function in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)):
            for call in ast.walk(function):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                where = f"{path.relative_to(SOURCE)}:{call.lineno}"
                if call.func.attr in excused and not is_of_ours(call.args[excused[call.func.attr]]):
                    found.append(where)
                if call.func.attr == "execute" and function.name not in excused:
                    searched += 1
                    if not is_of_ours(call.args[0]):
                        found.append(where)

    assert not found
    assert searched > 30


@pytest.mark.slow
async def test_it_takes_as_long_to_refuse_a_key_whatever_is_right_of_it(tmp_path: Path) -> None:
    async with stored(tmp_path) as store:
        made = [await store.keys.add(f"k{n}") for n in range(50)]
        ring = await store.keys.ring()
    tokens = [token for _, token in made]
    cases: dict[str, Callable[[int], str]] = {
        "hit": lambda n: tokens[n % 50],
        "miss": lambda n: f"al_{n:012}_{tokens[n % 50][16:]}",
        "id alone": lambda n: f"{tokens[n % 50][:16]}{'A' * 43}",
        "all but the last": lambda n: tokens[n % 50][:-1] + ("A" if tokens[n % 50][-1] != "A" else "B"),
    }
    took: dict[str, list[int]] = {name: [] for name in cases}
    for n in range(10_000):
        for name, make in cases.items():  # in turn, so that whatever else the machine does befalls all of them
            token = make(n)
            began = time.perf_counter_ns()
            ring.find(token, 0)
            took[name].append(time.perf_counter_ns() - began)

    medians = {name: statistics.median(times) for name, times in took.items()}
    misses = [value for name, value in medians.items() if name != "hit"]
    assert max(misses) / min(misses) < 1.1, medians
    assert max(medians.values()) / min(medians.values()) < 1.25, medians
