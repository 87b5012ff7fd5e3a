"""What is left of a key's allowances, counted in the store for all processes of a workspace together.

A process takes a share, which lasts for `LIFE_S`, and hands back what it did not use when it comes for the next: a call
is let in from memory, and the store is asked once for many. All of it happens inside one transaction, so that together
the processes never hold more than there is:

- of the minute, what was taken is counted by tenths of a second, for as long as a share lasts longer than a minute;
- of the calls at one time, and of the budget, each process has a row with what it holds. Rows of processes that have
  ended, or that have not been heard of for `SILENT_S`, are dropped, and what they held is there again. Where others
  want calls and get none, whoever has more than an equal part of them goes back to that, call by call.

What is refused while others hold shares that they have not used is less than the share of all of them together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

from msgspec import Struct

from asyncllm.workspace.database import Db
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.lease import has_ended

__all__ = ["LIFE_S", "PART", "Portion", "Report", "SILENT_S", "TICKS", "exchange"]

LIFE_S = 0.5
"""Seconds for which a share may be used."""
SILENT_S = 15.0
TICKS = 10
"""In which the minute is counted, a second."""

_KEPT = int((60 + LIFE_S) * TICKS) + 1
"""Ticks for which something counts: then whatever is used within any minute was counted together."""
PART = 8
"""At most this part of what is left is taken beyond what is needed now."""
_WANTED_S = 1.0
"""For which a process that was refused calls counts as one that wants some."""
_CRUMB = 1000
"""The part of a budget that is not divided any more."""


class Report(Struct, frozen=True, kw_only=True):
    """What a process says of one key when it comes for a share, and what it wants."""

    key: str
    worker: str
    """The process, as `lease.this_process` tells it, and which of its servers."""
    grants: Grants
    minute: dict[int, tuple[int, int]] = {}
    """What to add to the requests and tokens of each tick: less than nothing for what was not used."""
    spent_usd: float = 0.0
    """Since the last report."""
    in_flight: int = 0
    needed: int = 0
    """Calls that are to begin."""
    needed_tokens: int = 0
    """Of these calls together, and `least_tokens` of the first of them."""
    least_tokens: int = 0
    recent: int = 0
    """Calls that began in the time that a share lasts: as many are likely to come again."""
    recent_tokens: int = 0


class Portion(Struct, frozen=True, kw_only=True):
    """A share. What has no limit is infinite."""

    tick: int
    """In which it was taken."""
    until: float
    requests: float = 0
    tokens: float = 0
    calls: float = 0
    """At one time, those that are under way included."""
    usd: float = 0
    left_requests: float = inf
    """Beside this share."""
    left_tokens: float = inf
    left_usd: float = inf
    others_hold: bool = False
    """What was refused, so that some of it may come back soon."""
    refusal: str | None = None
    """The field of `Grants` that had no room for the first call that is needed."""
    wait_s: float = 0.0
    """Until there may be room; infinite where nobody knows."""


def exchange(db: Db, report: Report, now: float, unix: float) -> Portion:
    """Take a report, and give the share that it asks for. `now` is of `lease.now_s`, `unix` of `time.time`."""
    key, grants = report.key, report.grants
    tick = int(now * TICKS)
    _count(db, report, tick)
    requests, tokens = _left_of_minute(db, key, grants)
    calls = _left_of_calls(db, report, now)
    usd = _left_of_budget(db, report, now, unix)
    refusal, wait_s = None, 0.0
    if report.needed:
        if usd <= 0:
            refusal, wait_s = "budget_usd", inf
        elif requests < 1:
            refusal, wait_s = "requests_per_minute", _wait_s(db, key, "requests", 1 - requests, now)
        elif tokens < report.least_tokens:
            refusal, wait_s = "tokens_per_minute", _wait_s(db, key, "tokens", report.least_tokens - tokens, now)
        elif calls < report.in_flight + 1:
            refusal, wait_s = "concurrency", 1.0
    taken = taken_tokens = share = 0.0
    held = min(calls, report.in_flight)
    if refusal is None:
        taken = _taken(requests, report.needed, report.recent)
        taken_tokens = _taken(tokens, report.needed_tokens, report.recent_tokens)
        held = min(calls, report.in_flight + _taken(calls - report.in_flight, report.needed, report.recent))
    if report.in_flight or (refusal is None and (report.needed or report.recent)):
        share = _share_of_budget(grants, usd)
    counts = (
        0 if grants.requests_per_minute is None else int(taken),
        0 if grants.tokens_per_minute is None else int(taken_tokens),
    )
    if counts != (0, 0):
        _add(db, key, tick, *counts)
    _hold(db, report, int(max(held, report.in_flight)), share, now, wants=refusal == "concurrency")
    return Portion(
        tick=tick,
        until=now + LIFE_S,
        requests=inf if grants.requests_per_minute is None else taken,
        tokens=inf if grants.tokens_per_minute is None else taken_tokens,
        calls=inf if grants.concurrency is None else held,
        usd=inf if grants.budget_usd is None else share,
        left_requests=requests - taken,
        left_tokens=tokens - taken_tokens,
        left_usd=usd - share,
        others_hold=refusal in ("concurrency", "budget_usd") and _others_hold(db, report),
        refusal=refusal,
        wait_s=wait_s,
    )


def _taken(left: float, needed: int, recent: int) -> float:
    """Of what is left: what is needed, and a part of the rest for as much as there was lately."""
    if left == inf:
        return needed
    taken = max(0, min(left, needed))
    return taken + max(0, min(recent, (left - taken) // PART))


def _count(db: Db, report: Report, tick: int) -> None:
    # What stands in the future is of a time before the machine was started the last time.
    db.execute(
        "DELETE FROM key_minute WHERE key = ? AND (tick <= ? OR tick > ?)", (report.key, tick - _KEPT, tick + TICKS)
    )
    for at, (requests, tokens) in report.minute.items():
        if at > tick - _KEPT:
            _add(db, report.key, at, requests, tokens)


def _add(db: Db, key: str, tick: int, requests: int, tokens: int) -> None:
    db.execute(
        "INSERT INTO key_minute (key, tick, requests, tokens) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
        (key, tick, requests, tokens),
    )


def _left_of_minute(db: Db, key: str, grants: Grants) -> tuple[float, float]:
    if grants.requests_per_minute is None and grants.tokens_per_minute is None:
        return inf, inf
    requests, tokens = db.execute(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0) FROM key_minute WHERE key = ?", (key,)
    ).fetchone()
    return (
        inf if grants.requests_per_minute is None else grants.requests_per_minute - requests,
        inf if grants.tokens_per_minute is None else grants.tokens_per_minute - tokens,
    )


def _wait_s(db: Db, key: str, column: str, missing: float, now: float) -> float:
    """Seconds until `missing` more of a minute are free."""
    for tick, count in db.execute(f"SELECT tick, {column} FROM key_minute WHERE key = ? ORDER BY tick", (key,)):
        missing -= count
        if missing <= 0:
            return max(0.0, float(tick + _KEPT) / TICKS - now)
    return 60.0


def _left_of_calls(db: Db, report: Report, now: float) -> float:
    """Calls that this process may have under way, those that are included."""
    limit = report.grants.concurrency
    if limit is None:
        return inf
    left = limit - _held(db, report, "calls")
    if left < report.in_flight + report.needed and _bury(db, report, now):
        left = limit - _held(db, report, "calls")
    (wanting,) = db.execute(
        "SELECT count(*) FROM key_share WHERE key = ? AND worker <> ? AND wants AND beat > ?",
        (report.key, report.worker, now - _WANTED_S),
    ).fetchone()
    # Where there is less than one for each, they take turns.
    return min(left, limit // (1 + wanting) or (not report.in_flight)) if wanting else left


def _left_of_budget(db: Db, report: Report, now: float, unix: float) -> float:
    limit = report.grants.budget_usd
    if limit is None:
        return inf
    spent = _spent(db, report, unix)
    left = limit - spent - _held(db, report, "usd")
    if left <= 0 and report.needed and _bury(db, report, now):
        left = limit - spent - _held(db, report, "usd")
    return max(0.0, left)


def _share_of_budget(grants: Grants, left: float) -> float:
    limit = grants.budget_usd
    if limit is None or left <= 0:
        return 0.0
    return left if left <= limit / _CRUMB else left / PART


def _spent(db: Db, report: Report, unix: float) -> float:
    """US dollars in the period, those of this report included."""
    began = _beginning(report.grants, unix)
    row = db.execute("SELECT began, usd FROM key_spent WHERE key = ?", (report.key,)).fetchone()
    if row is None:
        (before,) = db.execute(
            "SELECT coalesce(sum(cost_usd), 0.0) FROM key_usage WHERE key = ? AND hour >= ?", (report.key, began)
        ).fetchone()
    else:
        before = row[1] if row[0] == began else 0.0
    spent = float(before + report.spent_usd)
    if row is None or row[0] != began or report.spent_usd:
        db.execute("INSERT OR REPLACE INTO key_spent (key, began, usd) VALUES (?, ?, ?)", (report.key, began, spent))
    return spent


def _beginning(grants: Grants, unix: float) -> int:
    """The hour since 1970 that the budget's period began with."""
    if grants.budget_per == "ever":
        return 0
    now = datetime.fromtimestamp(unix, UTC)
    day = 1 if grants.budget_per == "month" else now.day
    return int(datetime(now.year, now.month, day, tzinfo=UTC).timestamp() // 3600)


def _held(db: Db, report: Report, column: str) -> float:
    """What others hold."""
    (held,) = db.execute(
        f"SELECT coalesce(sum({column}), 0) FROM key_share WHERE key = ? AND worker <> ?", (report.key, report.worker)
    ).fetchone()
    return float(held)


def _others_hold(db: Db, report: Report) -> bool:
    return _held(db, report, "calls") > 0 or _held(db, report, "usd") > 0


def _hold(db: Db, report: Report, calls: int, usd: float, now: float, *, wants: bool) -> None:
    if report.grants.concurrency is None and report.grants.budget_usd is None:
        return
    if calls or usd or wants:
        db.execute(
            "INSERT OR REPLACE INTO key_share (key, worker, calls, usd, wants, beat) VALUES (?, ?, ?, ?, ?, ?)",
            (report.key, report.worker, calls, usd, int(wants), now),
        )
    else:
        db.execute("DELETE FROM key_share WHERE key = ? AND worker = ?", (report.key, report.worker))


def _bury(db: Db, report: Report, now: float) -> bool:
    """Drop what others hold who are no more. Returns whether there were any."""
    others = db.execute(
        "SELECT worker, beat FROM key_share WHERE key = ? AND worker <> ?", (report.key, report.worker)
    ).fetchall()
    gone = [worker for worker, beat in others if not 0 <= now - beat <= SILENT_S or has_ended(worker.partition("/")[0])]
    for worker in gone:
        db.execute("DELETE FROM key_share WHERE key = ? AND worker = ?", (report.key, worker))
    return bool(gone)
