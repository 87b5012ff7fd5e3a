"""`asyncllm keys`: made, listed, rotated and taken back from the command line."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asyncllm.cli import main
from asyncllm.cli.keys.times import duration_s, moment
from asyncllm.errors import ConfigError
from asyncllm.workspace.keys import Key
from asyncllm.workspace.served import ServerStore


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASYNCLLM_STORE", raising=False)


def run(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> tuple[str, str]:
    """What a command says on stdout and on stderr, each without the end of its last line."""
    assert main(["keys", *args]) == status
    said = capsys.readouterr()
    return said.out.rstrip("\n"), said.err.rstrip("\n")


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    return json.loads(run(capsys, "list", "--json", *args)[0])  # type: ignore[no-any-return]


def found(token: str, folder: str = "asyncllm-server") -> Key | None:
    async def ask() -> Key | None:
        async with ServerStore(folder, create=False) as store:
            return (await store.keys.ring()).find(token, time.time())

    return asyncio.run(ask())


def test_a_key_is_printed_once_with_what_it_was_granted(capsys: pytest.CaptureFixture[str]) -> None:
    grants = ("--tenant", "acme", "--scope", "calls", "--scope", "metrics", "--model", "a", "--model", "b",
              "--requests-per-minute", "5", "--tokens-per-minute", "100", "--concurrency", "2", "--budget-usd", "3.5",
              "--budget-per", "month", "--expires", "2999-01-31")  # fmt: skip
    token, told = run(capsys, "add", "phone", *grants)

    key = found(token)
    assert key is not None
    assert token.startswith(f"al_{key.id}_")
    assert "shown this once" in told
    assert token not in told
    (facts,) = listed(capsys)
    created = facts.pop("created_at")
    assert abs(datetime.fromisoformat(created).timestamp() - time.time()) < 60
    assert facts == {
        "id": key.id,
        "name": "phone",
        "tenant": "acme",
        "state": "good",
        "scopes": ["calls", "metrics"],
        "models": ["a", "b"],
        "requests_per_minute": 5,
        "tokens_per_minute": 100,
        "concurrency": 2,
        "budget_usd": 3.5,
        "budget_per": "month",
        "expires_at": "2999-01-31T00:00:00Z",
        "revoked_at": None,
    }
    table = run(capsys, "list")[0]
    assert "$3.5 a month" in table
    assert token[16:] not in table


def test_keys_are_listed_by_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    for name, tenant in (("one", "acme"), ("two", "zenith"), ("three", "acme")):
        run(capsys, "add", name, "--tenant", tenant)

    assert [key["name"] for key in listed(capsys, "--tenant", "acme")] == ["one", "three"]
    assert [key["name"] for key in listed(capsys)] == ["one", "two", "three"]
    assert "there is no key here" in run(capsys, "list", "--tenant", "nobody")[1]


def test_a_key_is_taken_back_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    token, _ = run(capsys, "add", "phone", "-q")
    output, told = run(capsys, "revoke", token.split("_")[1])

    assert output == ""
    assert "opens nothing any more" in told
    assert found(token) is None
    assert [key["state"] for key in listed(capsys)] == ["revoked"]


def test_a_rotated_key_is_printed_once_and_the_one_before_stays_for_the_overlap(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, _ = run(capsys, "add", "phone", "-q")
    id_ = first.split("_")[1]
    second, told = run(capsys, "rotate", id_, "--overlap", "1h")
    assert "shown this once" in told
    assert [key is not None and key.id for key in (found(first), found(second))] == [id_, id_]

    third, told = run(capsys, "rotate", id_, "-q")
    assert told == ""
    assert [found(token) is not None for token in (first, second, third)] == [False, False, True]


def test_the_store_is_named_by_the_option_or_the_variable(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCLLM_STORE", "there")
    run(capsys, "add", "one")
    run(capsys, "add", "two", "--store", "elsewhere")

    assert [key["name"] for key in listed(capsys)] == ["one"]
    assert [key["name"] for key in listed(capsys, "--store", "elsewhere")] == ["two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "there"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("add", "x/y"), "name is up to 64 letters"),
        (("add", "x", "--tenant", ""), "tenant is up to 64 letters"),
        (("add", "x", "--scope", "everything"), "invalid choice: 'everything'"),
        (("add", "x", "--concurrency", "0"), "concurrency is a whole number above zero"),
        (("add", "x", "--budget-usd", "nan"), "budget_usd is above zero"),
        (("add", "x", "--budget-per", "day"), "--budget-per belongs to a --budget-usd"),
        (("add", "x", "--expires", "soon"), "--expires takes a time such as 30d"),
        (("add", "x", "--expires", "2020-01-01"), "a key expires in the future"),
        (("list",), "there is no store at asyncllm-server"),
        (("revoke", "0" * 12), "there is no store at asyncllm-server"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_can(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, told = run(capsys, *args, status=2)

    assert output == ""
    assert said in told
    assert "\n" not in told


def test_an_id_that_is_none_is_not_repeated_since_it_may_be_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    token, _ = run(capsys, "add", "phone", "-q")
    for command in ("revoke", "rotate"):
        _, told = run(capsys, command, token, status=2)
        assert "keys list" in told
        assert token not in told
        assert "there is no key 000000000000" in run(capsys, command, "0" * 12, status=2)[1]
    _, told = run(capsys, "rotate", token.split("_")[1], "--overlap", "long", status=2)
    assert "--overlap takes a time" in told
    assert found(token) is not None


def test_times_are_read_as_people_write_them() -> None:
    assert [duration_s(text, "x") for text in ("0s", "90s", "10m", "12H", "30d", " 2 w ")] == [
        0, 90, 600, 43200, 30 * 86400, 14 * 86400,
    ]  # fmt: skip
    assert moment("1h", "x", 1000) == 4600
    noon = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()
    assert moment("2027-01-31T12:00", "x", 0) == moment("2027-01-31T13:00+01:00", "x", 0) == noon
    for wrong in ("", "h", "-1h", "1.5h", "1y", "2027-13-01", "²d"):
        with pytest.raises(ConfigError):
            moment(wrong, "x", 0)
