"""Make `asyncllm/prices/library.json` of a release of genai-prices, the price library that asyncllm keeps.

`make prices` fetches the release and runs this. The release is read as text: its data are calls of constructors with
literal arguments, so nothing of it is imported and none of what it depends on is needed. Kept is what `Usage` can
count, at standard rates, from the day of making on; one model stands on one line, so that a release shows as a diff.
"""

from __future__ import annotations

import ast
import datetime as dt
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

__all__ = ["LIBRARY", "convert", "read", "write"]

LIBRARY = Path(__file__).parent.parent / "asyncllm" / "prices" / "library.json"

_RATES = {
    "input_mtok": ("input_usd", 1),
    "output_mtok": ("output_usd", 1),
    "cache_read_mtok": ("cached_usd", 1),
    "cache_write_mtok": ("cache_write_usd", 1),
    "input_audio_mtok": ("input_audio_usd", 1),
    "output_audio_mtok": ("output_audio_usd", 1),
    "output_image_mtok": ("output_image_usd", 1),
    "output_reasoning_mtok": ("reasoning_usd", 1),
    "audio_hours": ("audio_usd_per_minute", 60),
    "input_audio_hours": ("audio_usd_per_minute", 60),
    "input_mchars": ("characters_usd", 1),
    "requests_kcount": ("request_usd", 1000),
}
"""The library's name of a rate, ours, and how many of our units one of the library's has."""
_FREE = {"input_usd": 0, "output_usd": 0}
_CHARGED = {"input_usd", "output_usd", "audio_usd_per_minute", "characters_usd"}
_UNCOUNTED = {"output_video_mtok"}
"""What a call is charged by that `Usage` has no place for: such a model is left out rather than told too cheap."""


class _Tier(msgspec.Struct):
    start: int
    price: float


class _Tiered(msgspec.Struct):
    """A rate that changes with the length of the prompt."""

    base: float
    tiers: list[_Tier]


def read(wheel: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """The version, the licence and the providers of a release."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        licence = archive.read(next(name for name in names if name.endswith("/LICENSE"))).decode()
        source = archive.read("genai_prices/data.py").decode()
    version = wheel.name.split("-")[1]
    assigned = next(node.value for node in ast.parse(source).body if isinstance(node, ast.AnnAssign) and node.value)
    return version, licence, _literal(assigned)


def _literal(node: ast.expr) -> Any:
    """An expression as builtins: a constructor's call becomes the mapping of its arguments."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_literal(key): _literal(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="Decimal"), args=[ast.Constant(value=str(number))]):
            return float(number)
        case ast.Call(func=ast.Attribute(attr="date"), args=parts):
            return dt.date(*map(_literal, parts)).isoformat()
        case ast.Call(
            func=ast.Attribute(attr="time"), args=parts, keywords=[ast.keyword(value=ast.Attribute(attr="UTC"))]
        ):
            return dt.time(*map(_literal, parts)).isoformat()
        case ast.Call(args=[], keywords=given):
            return {one.arg: _literal(one.value) for one in given if one.arg}
        case ast.Call(args=[only], keywords=[]):
            return _literal(only)
        case _:
            raise ValueError(f"the library's data hold what this cannot read: {ast.dump(node)[:200]}")


def convert(version: str, licence: str, providers: list[dict[str, Any]], taken: dt.date) -> dict[str, Any]:
    """The library's data in the form of `asyncllm.prices`."""
    return {
        "library": "genai-prices",
        "source": "https://github.com/pydantic/genai-prices",
        "version": version,
        "date": taken.isoformat(),
        "licence": licence,
        "providers": [_provider(one, taken.isoformat()) for one in providers],
    }


def write(data: Mapping[str, Any], path: Path = LIBRARY) -> None:
    """Write `data`, a model a line."""
    lines: list[str] = []
    for provider in data["providers"]:
        models = ",\n".join(map(_json, provider["models"]))
        head = _json({name: value for name, value in provider.items() if name != "models"})
        lines.append(f'{head[:-1]},"models":[\n{models}\n]}}')
    head = _json({name: value for name, value in data.items() if name != "providers"})
    path.write_text(f'{head[:-1]},"providers":[\n' + ",\n".join(lines) + "\n]}\n", "utf-8")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _provider(told: Mapping[str, Any], today: str) -> dict[str, Any]:
    provider: dict[str, Any] = {"id": told["id"], "url": told["api_pattern"]}
    if told.get("provider_match"):
        provider["match"] = _clause(told["provider_match"])
    if told.get("fallback_model_providers"):
        provider["also"] = told["fallback_model_providers"]
    provider["models"] = list(_models(told["models"], today))
    return provider


def _models(told: list[Mapping[str, Any]], today: str) -> Iterator[dict[str, Any]]:
    for model in told:
        prices = model["prices"]
        entries = cast("list[Mapping[str, Any]]", prices if isinstance(prices, list) else [{"prices": prices}])
        kept = [entry for one in _current(entries, today) if (entry := _entry(one, today))]
        if not kept and model["id"].endswith(":free"):
            kept = [{"price": _FREE}]  # of any other name, no rate may mean that nobody knows it
        if kept:
            yield {"id": model["id"], "match": _clause(model["match"]), "prices": kept}


def _current(entries: list[Mapping[str, Any]], today: str) -> list[Mapping[str, Any]]:
    """Without what is over: of the entries that hold from some day on, the last one in force and those to come."""
    begun = [
        position
        for position, entry in enumerate(entries)
        if "start_time" not in (limit := _limit(entry)) and limit.get("start_date", "") <= today
    ]
    return entries[begun[-1] :] if begun else entries


def _entry(told: Mapping[str, Any], today: str) -> dict[str, Any] | None:
    price = _price(told["prices"])
    if price is None:
        return None
    limit = _limit(told)
    if "start_time" in limit:
        return {"hours": [limit["start_time"], limit["end_time"]], "price": price}
    start = limit.get("start_date", "")
    return {"from": start, "price": price} if start > today else {"price": price}


def _limit(entry: Mapping[str, Any]) -> Mapping[str, str]:
    """When a price holds: nothing at all, a `start_date`, or a `start_time` and an `end_time`."""
    return entry.get("constraint") or {}


def _price(told: Mapping[str, Any]) -> dict[str, Any] | None:
    if told.keys() & _UNCOUNTED:
        return None
    theirs = msgspec.convert(told, dict[str, float | _Tiered | None])
    rates = {ours: (rate, units) for name, (ours, units) in _RATES.items() if (rate := theirs.get(name)) is not None}
    if not rates.keys() & _CHARGED:
        return None
    price: dict[str, Any] = {name: _rate(rate, units, 0) for name, (rate, units) in rates.items()}
    tiered = {name: (rate, units) for name, (rate, units) in rates.items() if isinstance(rate, _Tiered)}
    starts = sorted({tier.start for rate, _ in tiered.values() for tier in rate.tiers})
    tiers = [
        {"above_tokens": start} | {name: _rate(rate, units, start + 1) for name, (rate, units) in tiered.items()}
        for start in starts
    ]
    return price | {"tiers": tiers} if tiers else price


def _rate(told: float | _Tiered, units: int, tokens: int) -> float:
    """The rate for a prompt of so many tokens."""
    if isinstance(told, _Tiered):
        begun = [tier for tier in told.tiers if tokens > tier.start]
        told = max(begun, key=lambda tier: tier.start).price if begun else told.base
    usd = round(told / units, 12)
    return int(usd) if usd == int(usd) else usd


def _clause(told: Mapping[str, Any]) -> dict[str, Any]:
    """A rule of matching, under the library's own words."""
    ((word, value),) = told.items()
    if word in ("or_", "and_"):
        return {word[:-1]: [_clause(one) for one in value]}
    return {word: value if word == "regex" else value.lower()}


if __name__ == "__main__":
    import sys

    release = Path(sys.argv[1])
    write(convert(*read(release), taken=dt.datetime.now(dt.UTC).date()))
