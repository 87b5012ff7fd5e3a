"""The two caches by themselves, and the guard in front of any."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncllm
from asyncllm.cache import Cache, DiskCache, Guarded, MemoryCache

MIB = 1024 * 1024


@pytest.fixture(params=["memory", "disk"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cache]:
    cache: Cache = MemoryCache(max_bytes=MIB) if request.param == "memory" else DiskCache(tmp_path, max_bytes=MIB)
    yield cache
    await cache.aclose()


async def test_what_was_put_is_got_and_what_was_not_is_none(cache: Cache) -> None:
    await cache.put("a", b"1")
    await cache.put("b", b"")
    await cache.put("a", b"2")

    assert [await cache.get(key) for key in "abc"] == [b"2", b"", None]


async def test_a_value_larger_than_the_cache_takes_is_not_kept_and_costs_no_other(cache: Cache) -> None:
    await cache.put("a", b"1")
    await cache.put("b", bytes(2 * MIB))

    assert [await cache.get(key) for key in "ab"] == [b"1", None]


async def test_closing_twice_is_closing_once(cache: Cache) -> None:
    await cache.put("a", b"1")

    await cache.aclose()
    await cache.aclose()


@pytest.mark.parametrize("kind", [MemoryCache, DiskCache])
@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 2.5e6}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": float("nan")}, "ttl_s"),
        ({"ttl_s": "1"}, "ttl_s"),
    ],
)
def test_limits_that_cannot_be_right_are_refused_by_name(
    kind: type, limits: dict[str, object], field: str, tmp_path: Path
) -> None:
    place = [tmp_path] if kind is DiskCache else []

    with pytest.raises(asyncllm.ConfigError, match=field) as caught:
        kind(*place, **limits)

    assert caught.value.field == field


def test_a_cache_shows_neither_its_keys_nor_its_values_nor_its_path(tmp_path: Path) -> None:
    shown = repr(DiskCache(tmp_path / "of-someone")) + repr(MemoryCache())

    assert "of-someone" not in shown


# -- in memory ---------------------------------------------------------------------------------------------------


async def test_what_was_used_least_recently_leaves_memory_first() -> None:
    cache = MemoryCache(max_bytes=3 * 1400)

    for key in "abc":
        await cache.put(key, bytes(1000))
    await cache.get("a")
    await cache.put("d", bytes(1000))

    assert [await cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000)), max_size=60))
def test_memory_is_bounded_by_bytes_and_the_newest_that_fits_is_there(puts: list[tuple[str, int]]) -> None:
    cache = MemoryCache(max_bytes=4000)

    async def play() -> None:
        for key, size in puts:
            await cache.put(key, bytes(size))
            held = [value for name in "abcdef" if (value := await cache.get(name)) is not None]
            assert sum(map(len, held)) <= 4000
            assert (await cache.get(key) is not None) == (size <= 4000 - 301)

    asyncio.run(play())


async def test_memory_forgets_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("asyncllm.cache.memory.monotonic", lambda: now)
    cache = MemoryCache(ttl_s=10)

    await cache.put("a", b"1")
    now = 109.9
    young = await cache.get("a")
    now = 110.0

    assert (young, await cache.get("a")) == (b"1", None)
    assert "0 entries, 0 of" in repr(cache)


# -- on disk -----------------------------------------------------------------------------------------------------


async def test_a_folder_outlives_the_cache_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"

    first = DiskCache(folder, max_bytes=MIB)
    await first.put("a", b"1")
    await first.aclose()

    assert await DiskCache(folder, max_bytes=MIB).get("a") == b"1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


async def test_nothing_is_made_before_the_first_use(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    await cache.aclose()

    assert not (tmp_path / "cache").exists()  # nothing else runs here


async def test_caches_of_one_folder_share_it_within_a_process(tmp_path: Path) -> None:
    first, second = DiskCache(tmp_path, max_bytes=MIB), DiskCache(tmp_path / "." / ".", max_bytes=MIB)

    await first.put("a", b"1")
    seen = await second.get("a")
    await first.aclose()

    assert (seen, await second.get("a"), await first.get("a")) == (b"1", b"1", b"1")


async def test_the_disk_gives_out_nothing_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr("asyncllm.cache.disk.time", lambda: now)
    cache, patient = DiskCache(tmp_path, max_bytes=MIB, ttl_s=10), DiskCache(tmp_path, max_bytes=MIB)

    await cache.put("a", b"1")
    now += 9.9
    young = await cache.get("a")
    now += 0.1

    assert (young, await cache.get("a"), await patient.get("a")) == (b"1", None, b"1")


async def test_a_full_disk_cache_drops_the_oldest(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=MIB)

    for number in range(100):
        await cache.put(str(number), bytes(20_000))

    kept = [number for number in range(100) if await cache.get(str(number)) is not None]
    assert kept == list(range(kept[0], 100))
    assert 20 <= len(kept) < 50


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_a_full_disk_cache_never_fails_and_its_file_keeps_to_its_size(seed: int) -> None:
    rand = random.Random(seed)
    sizes = [0, 10, 1000, 2030, 2040, 4090, 9000, 30_000, MIB // 16]

    async def play(folder: Path) -> None:
        cache = DiskCache(folder, max_bytes=MIB)
        for _ in range(150):
            key, value = str(rand.randrange(40)), rand.randbytes(rand.choice(sizes))
            await cache.put(key, value)
            assert await cache.get(key) == value
        assert (folder / "data.mdb").stat().st_size <= MIB
        await cache.aclose()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


async def test_a_file_without_a_free_page_in_one_piece_makes_room_all_the_same(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=MIB)
    rand = random.Random(1)

    for number in range(600):
        size = 3000 if number % 10 else MIB // 16
        await cache.put(str(rand.randrange(200)), bytes(size))
        await cache.put("last", bytes(MIB // 16))

    assert await cache.get("last") == bytes(MIB // 16)


async def test_the_loop_turns_while_the_disk_is_waited_for(tmp_path: Path) -> None:
    script = """
        import lmdb, sys
        with lmdb.open(sys.argv[1]).begin(write=True):
            print("locked", flush=True)
            sys.stdin.read()
    """
    cache = DiskCache(tmp_path, max_bytes=MIB)
    await cache.put("a", b"1")
    with subprocess.Popen(  # noqa: ASYNC220  # nothing else runs here yet
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"

        put = asyncio.create_task(cache.put("a", b"2"))
        await asyncio.sleep(0.05)
        waited = not put.done()
        other.stdin.close()
        await put

    assert waited
    assert await cache.get("a") == b"2"


def _checked(number: int) -> bytes:
    body = random.Random(number).randbytes(100 + number % 7 * 3000)
    return hashlib.sha256(body).digest() + body


def _write_for_ever(folder: str) -> None:
    async def write() -> None:
        cache = DiskCache(folder, max_bytes=MIB)
        number = 0
        while True:
            number += 1
            await cache.put(str(number % 50), _checked(number))
            await cache.get(str(number % 13))

    asyncio.run(write())


async def test_processes_that_are_killed_while_writing_corrupt_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_for_ever, args=(str(tmp_path),)) for _ in range(3)]
    cache = DiskCache(tmp_path, max_bytes=MIB)

    for writer in writers:
        writer.start()
    try:
        # One after the other, so that those that are left go on beside the dead ones.
        for writer in writers:
            await cache.put("49", b"")
            while not await cache.get("49"):  # noqa: ASYNC110  # it comes from another process
                await asyncio.sleep(0.01)
            assert writer.pid is not None
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    finally:
        for writer in writers:
            writer.kill()
            writer.join()

    values = [value for number in range(50) if (value := await cache.get(str(number))) is not None]
    assert len(values) > 5
    assert all(hashlib.sha256(value[32:]).digest() == value[:32] for value in values)
    for number in range(200):
        await cache.put(str(number), _checked(number))
    assert await cache.get("199") == _checked(199)


async def test_a_folder_that_another_process_lets_grow_is_read_on(tmp_path: Path) -> None:
    script = """
        import asyncio, sys
        from asyncllm.cache import DiskCache
        async def fill():
            cache = DiskCache(sys.argv[1], max_bytes=8 * 1024 * 1024)
            for number in range(50):
                await cache.put(str(number), bytes(100_000))
        asyncio.run(fill())
    """
    cache = DiskCache(tmp_path, max_bytes=MIB)
    await cache.put("a", b"1")

    subprocess.run(  # noqa: ASYNC221  # nothing else runs here
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True
    )

    assert await cache.get("49") == bytes(100_000)
    await cache.put("b", b"2")
    assert await cache.get("b") == b"2"


def test_a_forked_child_uses_what_was_not_open_and_is_told_of_what_was(tmp_path: Path) -> None:
    script = """
        import asyncio, os, sys
        from asyncllm import ConfigError
        from asyncllm.cache import DiskCache
        used, unused = DiskCache(sys.argv[1] + "/used"), DiskCache(sys.argv[1] + "/unused")
        asyncio.run(used.put("a", b"1"))
        child = os.fork()
        if child == 0:
            asyncio.run(unused.put("a", b"1"))
            try:
                asyncio.run(used.get("a"))
            except ConfigError as error:
                os._exit(7 if "fork" in str(error) else 1)
            os._exit(2)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], timeout=60)

    assert done.returncode == 7


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)

    with pytest.raises(asyncllm.ConfigError, match=r"pip install 'asyncllm\[cache\]'"):
        DiskCache(tmp_path)


# -- the guard ---------------------------------------------------------------------------------------------------


class Broken:
    """A cache that does everything wrong, and says things that must not be logged."""

    async def get(self, key: str) -> bytes | None:
        raise RuntimeError(f"CANARY {key}")

    async def put(self, key: str, value: bytes) -> None:
        raise KeyError(f"CANARY {value!r}")

    async def aclose(self) -> None:
        """Nothing is held."""


async def test_a_cache_that_raises_is_logged_once_by_its_name_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guarded = Guarded.of(Broken())

    for _ in range(3):
        assert await guarded.get("a") is None
        await guarded.put("a", b"1")

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "the cache Broken failed at get, and calls go on without it: RuntimeError"
    assert record.exc_info is None
    assert Guarded.of(guarded) is guarded


async def test_what_this_package_says_itself_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Broken):
        async def get(self, key: str) -> bytes | None:
            raise asyncllm.ConfigError("open it after the fork")

    await Guarded(Refusing()).get("a")

    assert "open it after the fork" in caplog.text


async def test_a_cache_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(Broken):
        async def get(self, key: str) -> bytes | None:
            await asyncio.Event().wait()
            return None

    monkeypatch.setattr("asyncllm.cache.guarded._PATIENCE_S", 0.01)

    assert await Guarded(Hanging()).get("a") is None
    assert "TimeoutError" in caplog.text


async def test_a_call_that_is_cancelled_at_its_cache_is_cancelled() -> None:
    class Hanging(Broken):
        async def get(self, key: str) -> bytes | None:
            await asyncio.Event().wait()
            return None

    task = asyncio.create_task(Guarded(Hanging()).get("a"))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_file_that_is_no_cache_costs_the_calls_only_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    guarded = Guarded(DiskCache(tmp_path))

    await guarded.put("a", b"1")

    assert await guarded.get("a") is None
    assert len(caplog.records) == 1
