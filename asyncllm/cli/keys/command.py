"""`asyncllm keys`: keys are made, listed, given new secrets and taken back, in the store of a server."""

from __future__ import annotations

import asyncio
import re
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import msgspec

from asyncllm.cli.keys.times import duration_s, moment, written
from asyncllm.cli.output import note, print_json, print_table, say
from asyncllm.cli.status import OK
from asyncllm.cli.store import has_store, store_folder
from asyncllm.errors import ConfigError
from asyncllm.workspace.keys import Grants, Key
from asyncllm.workspace.served import ServerStore

__all__ = ["run"]

_ID = re.compile(r"[0-9a-z]{12}")
_LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrency": "at once",
}


def run(args: Namespace) -> int:
    """Do to the keys what is asked, and return the exit status. Raises `ConfigError`, `StoreError`."""
    return asyncio.run(_run(args))


async def _run(args: Namespace) -> int:
    folder = store_folder(args.store)
    if args.action == "add":
        # All of it is looked at before there is a store.
        grants, expires_at = _grants(args), _expires_at(args)
        async with ServerStore(folder) as store:
            key, token = await store.keys.add(args.name, tenant=args.tenant, grants=grants, expires_at=expires_at)
        _hand_over(key, token, args)
        return OK
    if not has_store(folder):
        raise ConfigError(f"there is no store at {folder}: name it with --store", field="--store")
    async with ServerStore(folder, create=False) as store:
        if args.action == "list":
            _tell(await store.keys.list(args.tenant), args)
            return OK
        id_ = _id(args.id)
        if args.action == "revoke":
            revoked = await store.keys.revoke(id_)
            if revoked is None:
                raise _unknown(id_)
            if not args.quiet:
                note(f"the key {id_}, {revoked.name!r} of {revoked.tenant}, opens nothing any more")
        else:
            overlap_s = duration_s(args.overlap, "--overlap")
            rotated = await store.keys.rotate(id_, overlap_s=overlap_s)
            if rotated is None:
                raise _unknown(id_)
            _hand_over(*rotated, args)
    return OK


def _hand_over(key: Key, token: str, args: Namespace) -> None:
    say(token)
    if not args.quiet:
        until = "" if key.expires_at is None else f" until {written(key.expires_at)}"
        note(f"this is the key {key.id}, {key.name!r} of {key.tenant}{until}; it is shown this once and kept nowhere")


def _grants(args: Namespace) -> Grants:
    if args.budget_per is not None and args.budget_usd is None:
        raise ConfigError("--budget-per belongs to a --budget-usd", field="--budget-per")
    given: dict[str, Any] = {
        "scopes": None if args.scope is None else tuple(dict.fromkeys(args.scope)),
        "models": None if args.model is None else tuple(dict.fromkeys(args.model)),
        "budget_usd": args.budget_usd,
        "budget_per": args.budget_per,
        **{name: getattr(args, name) for name in _LIMITS},
    }
    return Grants(**{name: value for name, value in given.items() if value is not None})


def _expires_at(args: Namespace) -> float | None:
    return None if args.expires is None else moment(args.expires, "--expires", time.time())


def _id(given: str) -> str:
    if not _ID.fullmatch(given):
        # It could be a key, given by mistake, so it is not repeated.
        raise ConfigError("ID is the twelve letters and digits that `asyncllm keys list` shows", field="ID")
    return given


def _unknown(id_: str) -> ConfigError:
    return ConfigError(f"there is no key {id_} in this store; `asyncllm keys list` shows what there is", field="ID")


def _tell(keys: Sequence[Key], args: Namespace) -> None:
    now = time.time()
    if args.json:
        print_json([_facts(key, now) for key in keys])
    elif keys:
        head = ("ID", "NAME", "TENANT", "STATE", "OPENS", "MODELS", "LIMITS")
        print_table([head, *(_row(key, now) for key in keys)])
    elif not args.quiet:
        note("there is no key here; `asyncllm keys add NAME` makes one")


def _state(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "good" if key.is_good(now) else "expired"


def _facts(key: Key, now: float) -> dict[str, Any]:
    granted = key.grants
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "state": _state(key, now),
        **{name: msgspec.to_builtins(getattr(granted, name)) for name in granted.__struct_fields__},
        "created_at": written(key.created_at),
        "expires_at": None if key.expires_at is None else written(key.expires_at),
        "revoked_at": None if key.revoked_at is None else written(key.revoked_at),
    }


def _row(key: Key, now: float) -> Sequence[str]:
    state = _state(key, now)
    if state == "good" and key.expires_at is not None:
        state = f"good until {written(key.expires_at)}"
    granted = key.grants
    limits = [f"{getattr(granted, name)} {unit}" for name, unit in _LIMITS.items() if getattr(granted, name)]
    if granted.budget_usd is not None:
        per = "" if granted.budget_per == "ever" else f" a {granted.budget_per}"
        limits.append(f"${granted.budget_usd:g}{per}")
    models = "all" if granted.models is None else ",".join(granted.models)
    return key.id, key.name, key.tenant, state, ",".join(granted.scopes), models, ", ".join(limits) or "none"
