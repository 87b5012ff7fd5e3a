"""Usage as people ask for it and take it away: moments, sums, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from asyncllm.errors import InvalidRequestError
from asyncllm.workspace.usage import UsageRow

__all__ = ["COUNTS", "GROUPS", "csv_text", "moment", "summed"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
COUNTS = ("requests", "failures", "input_tokens", "output_tokens", "cost_usd", "unpriced")

GROUPS: dict[str, Callable[[UsageRow], str]] = {
    "key": lambda row: f"{row.tenant} {row.name or row.key or '(no key)'}",
    "tenant": lambda row: row.tenant,
    "model": lambda row: row.model,
    "day": lambda row: f"{datetime.fromtimestamp(row.hour, UTC):%Y-%m-%d}",
}
"""What usage is added up by."""


def moment(text: str, field: str) -> float:
    """A Unix time, or a day or time such as 2026-11-22 or 2026-11-22T08:00Z, in UTC unless it says otherwise.

    Raises `InvalidRequestError`.
    """
    try:
        if text.isascii() and text.isdigit():
            found = float(text)
        else:
            told = datetime.fromisoformat(text)
            found = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        found = -1.0
    if not 0 <= found < 1e11:
        raise InvalidRequestError(f"{field} is a Unix time in seconds, or a day such as 2026-11-22", field=field)
    return found


def summed(rows: Iterable[UsageRow], by: str) -> dict[str, dict[str, float]]:
    """The counts of all rows of each group, in the order of the groups' names."""
    sums: dict[str, dict[str, float]] = {}
    for row in rows:
        own = sums.setdefault(GROUPS[by](row), dict.fromkeys(COUNTS, 0))
        for name in COUNTS:
            own[name] += getattr(row, name)
    return dict(sorted(sums.items()))


def csv_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV. A text that a spreadsheet would take for a formula has an apostrophe before it."""
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(names)
    for row in rows:
        write.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row])
    return out.getvalue()
