"""Where batches are read from and written to, on this machine."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.batch.places import place_of
from asyncllm.batch.places.gzipped import GzippedPlace
from asyncllm.batch.places.standard import StandardPlace
from asyncllm.batch.spool import Spool
from asyncllm.errors import ConfigError, InputError, OutputExistsError, WriteError
from place_writer import SIZE
from places import content_of, put

KILLS = 20
BIG = os.urandom(1024) * 3000


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["", "a\0b", b"bytes", "https://x.example/in.jsonl", "file:///in.jsonl"])
def test_what_is_no_place_is_refused(location: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        place_of(location)

    assert raised.value.field == "location"


def test_options_for_object_stores_do_not_bother_other_places() -> None:
    assert place_of("in.jsonl", options={"region": "x"}).name == "in.jsonl"


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    assert place_of(tmp_path / "in.jsonl").name == str(tmp_path / "in.jsonl")


# -- reading -----------------------------------------------------------------------------------------------------


async def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(BIG)

    async with place_of(tmp_path / "in").read() as pieces:
        sizes = [len(piece) async for piece in pieces]

    assert sum(sizes) == len(BIG)
    assert max(sizes) == 1024 * 1024


async def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    path = tmp_path / "in"
    place = place_of(path)

    assert await place.fingerprint() is None
    path.write_bytes(b"a")
    os.utime(path, ns=(1, 1))
    first = await place.fingerprint()
    path.write_bytes(b"b")
    os.utime(path, ns=(2, 2))

    assert first is not None
    assert await place.fingerprint() not in (first, None)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "nothing is there"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: os.mkfifo(path), "is a pipe or a device"),
        (lambda path: path.symlink_to(path), "lead in a circle"),
        (lambda path: path.symlink_to("/proc/1/nowhere"), "nothing is there"),
    ],
)
async def test_what_cannot_be_read_is_named_with_the_fix(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "in"
    make(path)

    with pytest.raises(InputError, match=said) as raised:
        await content_of(place_of(path))

    assert str(path) in str(raised.value)


async def test_a_folder_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        await place_of(tmp_path).fingerprint()


async def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    with pytest.raises(InputError, match="a part of its path is a file"):
        await content_of(place_of(tmp_path / "a" / "b"))


def test_a_file_that_may_not_be_read_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a")
    (tmp_path / "in").chmod(0)
    script = (
        "import asyncio, os, sys\n"
        "from asyncllm.batch.places import place_of\n"
        "from asyncllm.errors import AsyncLLMError\n"
        "async def main():\n"
        "    for overwrite in (None, True):\n"
        "        try:\n"
        "            lent = place_of('in').read() if overwrite is None else place_of('out').write(overwrite=True)\n"
        "            async with lent:\n"
        "                pass\n"
        "        except AsyncLLMError as error:\n"
        "            print(type(error).__name__, error)\n"
        "os.chdir(sys.argv[1])\n"
        "asyncio.run(place_of('no').fingerprint())\n"  # loads what another user may not
        "os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "asyncio.run(main())\n"
    )
    tmp_path.chmod(0o555)
    for parent in list(tmp_path.parents)[:2]:  # which pytest makes for its own user alone
        parent.chmod(0o755)

    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)

    read, written = done.stdout.splitlines()
    assert "InputError in cannot be read: this user may not read it" in read
    assert "WriteError out cannot be written: this user may not write there" in written


# -- writing -----------------------------------------------------------------------------------------------------


async def test_a_file_is_there_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async with place_of(path).write(overwrite=False) as write:
        await write(BIG)
        await write(b"end")
        assert not path.exists()

    assert path.read_bytes() == BIG + b"end"
    assert names(tmp_path) == ["out"]


async def test_a_new_file_is_for_its_owner_and_one_written_over_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"

    await put(place_of(path), b"a")
    new = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o640)
    await put(place_of(path), b"b", overwrite=True)

    assert new == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError("x"), asyncio.CancelledError()], ids=["raises", "is cancelled"])
@pytest.mark.parametrize("before", [None, b"old"])
async def test_nothing_is_written_if_the_block(tmp_path: Path, error: BaseException, before: bytes | None) -> None:
    path = tmp_path / "out"
    if before is not None:
        path.write_bytes(before)

    with pytest.raises(type(error)):
        async with place_of(path).write(overwrite=True) as write:
            await write(BIG)
            raise error

    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["out"])


async def test_a_cancelled_write_leaves_nothing_open(tmp_path: Path) -> None:
    open_before = len(names(Path("/proc/self/fd")))

    for turns in range(12):
        task = asyncio.create_task(put(place_of(tmp_path / "out"), BIG, BIG))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert names(tmp_path) == []
    assert len(names(Path("/proc/self/fd"))) == open_before


async def test_what_is_there_is_not_written_over_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    with pytest.raises(OutputExistsError, match="is there already.*overwrite=True"):
        await put(place_of(path), b"new")

    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


async def test_what_comes_there_meanwhile_is_not_written_over_either(tmp_path: Path) -> None:
    path = tmp_path / "out"

    with pytest.raises(OutputExistsError):
        async with place_of(path).write(overwrite=False) as write:
            await write(b"new")
            path.write_bytes(b"theirs")

    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out"]


async def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "out"
    contents = [bytes([letter]) * 100_000 for letter in range(10)]

    results = await asyncio.gather(*(put(place_of(path), content) for content in contents), return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["OutputExistsError"] * 9
    assert path.read_bytes() == contents[results.index(None)]
    assert names(tmp_path) == ["out"]


async def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/out")

    await put(place_of(tmp_path / "link"), b"new", overwrite=True)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "out").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no/out", "its folder is not there: make it first"),
        ("folder", "is a folder; name a file in it"),
        ("file/out", "a part of its path is a file"),
        ("pipe", "is a pipe or a device; use - for the output"),
        ("o" * 300, "its name is longer"),
    ],
)
async def test_what_cannot_be_written_is_named_with_the_fix(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(WriteError, match=said) as raised:
        await put(place_of(tmp_path / path), b"x", overwrite=True)

    assert str(tmp_path / path) in str(raised.value)


async def test_a_file_system_without_hard_links_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(WriteError, match="has no hard links"):
        await put(place_of(tmp_path / "out"), b"x")

    assert names(tmp_path) == []


# -- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "write", "replace", "fchmod"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_whatever_fails_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    owner: Any = Path if call == "replace" else os
    monkeypatch.setattr(owner, call, fail)

    with pytest.raises(WriteError) as raised:
        await put(place_of(path), BIG, overwrite=True)

    assert raised.value.code == errno.errorcode[number]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Generator[Path]:
    """A folder on a disk of 2 MiB, or one in which no file may be larger than that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "asyncllm-test", folder], capture_output=True
        ).returncode
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, limits[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        if mounted:
            subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_is_a_typed_error_and_leaves_the_old_file(full_disk: Path) -> None:
    path = full_disk / "out"
    path.write_bytes(b"old")

    with pytest.raises(WriteError) as raised:
        await put(place_of(path), BIG, overwrite=True)
    assert path.read_bytes() == b"old"
    assert names(full_disk) == ["out"]

    assert raised.value.code in ("ENOSPC", "EFBIG")
    await put(place_of(path), b"small enough", overwrite=True)
    assert path.read_bytes() == b"small enough"


async def test_a_spool_on_a_full_disk_is_a_typed_error(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(full_disk))

    with Spool() as spool, pytest.raises(WriteError, match="set TMPDIR"):
        await spool.write(BIG)

    assert names(full_disk) == []


def test_a_writer_killed_at_any_point_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    chance = random.Random(7)
    seen: set[bytes] = set()

    for _ in range(KILLS):
        command = [sys.executable, str(Path(__file__).with_name("place_writer.py")), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(2, 5)):
                writer.stdout.read(1)
            with pytest.raises(subprocess.TimeoutExpired):  # any moment of the few that one content takes
                writer.wait(chance.uniform(0, 0.02))
            writer.kill()
        content = path.read_bytes()
        assert len(content) == SIZE
        assert content == content[:1] * SIZE
        seen.add(content[:1])
        assert len([name for name in names(tmp_path) if name != "out"]) <= 1

    assert len(seen) > 1
    asyncio.run(put(place_of(path), b"last", overwrite=True))
    assert names(tmp_path) == ["out"]


async def test_leftovers_are_removed_and_drafts_of_the_living_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out"
    async with place_of(path).write(overwrite=True):
        (name,) = names(tmp_path)
        draft = tmp_path / name
        leftover = tmp_path / f"{name[:-8]}dead.tmp"
        leftover.write_bytes(b"x")
        other = tmp_path / f".asyncllm-{'0' * 16}-dead.tmp"
        other.write_bytes(b"of another target")

        await put(place_of(path), b"mine", overwrite=True)

        assert draft.exists()
        assert other.exists()
        assert not leftover.exists()


# -- gzip --------------------------------------------------------------------------------------------------------


async def test_what_ends_in_gz_is_packed_and_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"

    await put(place_of(path), b"a" * 3_000_000, b"b")
    first = path.read_bytes()
    await put(place_of(path), b"a" * 3_000_000, b"b", overwrite=True)

    assert gzip.decompress(first) == b"a" * 3_000_000 + b"b"
    assert path.read_bytes() == first
    assert await content_of(place_of(path)) == gzip.decompress(first)


async def test_several_packed_files_in_one_are_one(tmp_path: Path) -> None:
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0) + b"\0\0")

    assert await content_of(place_of(path)) == b"ab"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"plain", "damaged, or not packed"),
        (gzip.compress(b"a" * 1000, mtime=0)[:-5], "ends in the middle"),
        (gzip.compress(b"a" * 1000, mtime=0)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(b"a", mtime=0) + b"rest", "damaged"),
    ],
)
async def test_a_packed_file_that_is_not_whole_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "in.gz"
    path.write_bytes(content)

    with pytest.raises(InputError, match=said):
        await content_of(place_of(path))


@given(st.lists(st.binary(max_size=20)), st.integers(1, 9), st.integers(0, 3_000_000))
async def test_any_content_comes_through_gzip_however_it_is_cut(parts: list[bytes], size: int, zeros: int) -> None:
    packed = b"".join(map(gzip.compress, [*parts, bytes(zeros)]))

    class Memory:
        name = "memory"

        def read(self) -> Any:
            return self

        async def __aenter__(self) -> Any:
            async def pieces() -> Any:
                for start in range(0, len(packed), size * 50):
                    yield packed[start : start + size * 50]

            return pieces()

        async def __aexit__(self, *error: object) -> None:
            pass

    assert await content_of(GzippedPlace(Memory())) == b"".join(parts) + bytes(zeros)  # type: ignore[arg-type]


# -- standard input and output -----------------------------------------------------------------------------------


async def test_standard_input_is_read_more_than_once() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        os.write(writer, b"one\n")
        os.close(writer)
        place = StandardPlace(source)

        fingerprint = await place.fingerprint()

        assert fingerprint is not None
        assert fingerprint.startswith("sha256-")
        assert await content_of(place) == await content_of(place) == b"one\n"


async def test_waiting_for_standard_input_can_be_cancelled() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        task = asyncio.create_task(StandardPlace(source).fingerprint())
        await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    os.close(writer)


async def test_standard_output_gets_all_or_nothing(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as sink:
        place = StandardPlace(sink=sink)
        with pytest.raises(RuntimeError):
            async with place.write(overwrite=False) as write:
                await write(b"lost")
                raise RuntimeError
        await put(place, BIG, b"kept")

    assert (tmp_path / "out").read_bytes() == BIG + b"kept"


async def test_standard_output_that_is_closed_is_a_typed_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = os.fdopen(writer, "wb")

    with pytest.raises(WriteError, match="was closed before all was written") as raised:
        await put(StandardPlace(sink=sink), BIG)

    assert raised.value.code == "EPIPE"
    with suppress(OSError):
        sink.close()


def test_dash_is_a_filter_in_a_pipe(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from asyncllm.batch.places import place_of\n"
        "async def main():\n"
        "    place = place_of('-')\n"
        "    async with place.read() as pieces, place.write(overwrite=False) as write:\n"
        "        async for piece in pieces:\n"
        "            await write(piece.upper())\n"
        "asyncio.run(main())\n"
    )

    done = subprocess.run([sys.executable, "-c", script], input=b"abc", capture_output=True)
    closed = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -c "$0" <&-', script], capture_output=True)

    assert (done.stdout, done.stderr) == (b"ABC", b"")
    assert b"InputError: the standard input is closed" in closed.stderr
