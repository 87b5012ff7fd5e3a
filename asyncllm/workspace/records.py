"""The tables of batches, and their rows as this code sees them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from msgspec import Struct

from asyncllm.workspace.lease import Lock

__all__ = ["BatchRecord", "Kept", "Lease", "MIGRATIONS", "NewRow", "OpenPart", "RowState", "RowStatus"]

MIGRATIONS: Final = (
    """
    CREATE TABLE batch (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,                 -- what it is known by: where its output goes
        status TEXT NOT NULL,
        definition BLOB NOT NULL,           -- JSON of what makes it this batch and no other
        settings BLOB NOT NULL,             -- JSON of what may change from run to run
        fingerprint TEXT,                   -- of the input
        total INTEGER,                      -- rows, once the whole input has been seen
        fence INTEGER NOT NULL DEFAULT 0,
        boot TEXT NOT NULL DEFAULT '',      -- of the runner with that fence
        beat REAL,                          -- when it was last known to work, NULL once it has left
        process TEXT,                       -- that runner, as `lease.this_process` tells it
        cancel INTEGER NOT NULL DEFAULT 0,
        ran_s REAL NOT NULL DEFAULT 0,
        exported INTEGER NOT NULL DEFAULT 0, -- whether what stands at its output is its own
        created_at REAL NOT NULL,           -- seconds since 1970, for people
        ended_at REAL,
        seal INTEGER NOT NULL DEFAULT 0     -- of all that stands before it
    ) STRICT;
    CREATE TABLE row (
        id INTEGER PRIMARY KEY,             -- batch * 2**40 + position
        key BLOB NOT NULL,                  -- digest of what is asked, and how
        name TEXT,                          -- custom_id
        status INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0, -- how often the process ended during a call of this row
        seal INTEGER NOT NULL               -- of all that stands before it
    ) STRICT;
    CREATE UNIQUE INDEX row_name ON row (id >> 40, name) WHERE name IS NOT NULL;
    CREATE TABLE outcome (
        id INTEGER PRIMARY KEY REFERENCES row,
        body BLOB NOT NULL,
        digest BLOB NOT NULL                -- of id, key and body
    ) STRICT;
    CREATE TABLE part (
        id INTEGER PRIMARY KEY,
        batch INTEGER NOT NULL REFERENCES batch,
        token TEXT NOT NULL UNIQUE,         -- what a service finds it by
        model TEXT NOT NULL,                -- in the words of the service
        remote_id TEXT,                     -- what the service knows it by
        rows BLOB NOT NULL,                 -- MessagePack of the positions
        state TEXT NOT NULL,                -- open, or over
        seal INTEGER NOT NULL               -- of all that stands before it
    ) STRICT;
    """,
    """
    CREATE TABLE api_key (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        digest BLOB NOT NULL,               -- keyed hash of the whole key
        grants BLOB NOT NULL,               -- JSON of what it is good for
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        old_digest BLOB,                    -- of the secret before this one
        old_until REAL                      -- when that opens nothing more
    ) STRICT;
    CREATE TABLE key_usage (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,                  -- its id, empty for calls without one
        model TEXT NOT NULL,                -- by the name that requests use
        hour INTEGER NOT NULL,              -- since 1970, UTC
        requests INTEGER NOT NULL,
        failures INTEGER NOT NULL,          -- the share of requests that failed or were left
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cost_usd REAL NOT NULL,
        unpriced INTEGER NOT NULL,          -- the share of requests whose cost nobody knows
        PRIMARY KEY (tenant, key, model, hour)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX key_usage_key ON key_usage (key, hour);
    CREATE TABLE key_minute (
        key TEXT NOT NULL,
        tick INTEGER NOT NULL,              -- tenths of a second since the machine was started
        requests INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (key, tick)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key_share (
        key TEXT NOT NULL,
        worker TEXT NOT NULL,               -- a process that serves, as `lease.this_process` tells it
        calls INTEGER NOT NULL,             -- that it may have under way
        usd REAL NOT NULL,                  -- that it may spend
        wants INTEGER NOT NULL,             -- whether it was refused calls because of others
        beat REAL NOT NULL,                 -- seconds since the machine was started
        PRIMARY KEY (key, worker)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key_spent (
        key TEXT PRIMARY KEY,
        began INTEGER NOT NULL,             -- the hour that the period of its budget began with
        usd REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE server_figures (
        worker TEXT PRIMARY KEY,            -- as in key_share; empty for those that have ended, added up
        beat REAL NOT NULL,                 -- seconds since the machine was started
        body BLOB NOT NULL                  -- MessagePack of its counts
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE api_key_edition (
        number INTEGER NOT NULL             -- goes up with every change of a key, whoever makes it
    ) STRICT;
    INSERT INTO api_key_edition VALUES (0);
    CREATE TRIGGER api_key_added AFTER INSERT ON api_key BEGIN UPDATE api_key_edition SET number = number + 1; END;
    CREATE TRIGGER api_key_changed AFTER UPDATE ON api_key BEGIN UPDATE api_key_edition SET number = number + 1; END;
    CREATE TRIGGER api_key_gone AFTER DELETE ON api_key BEGIN UPDATE api_key_edition SET number = number + 1; END;
    CREATE TABLE tenant_file (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,                   -- grows with time
        purpose TEXT NOT NULL,
        filename TEXT NOT NULL,             -- for people
        size INTEGER NOT NULL,              -- bytes
        digest TEXT NOT NULL,               -- where its bytes are: SHA-256 in hex
        created_at REAL NOT NULL,
        expires_at REAL,
        PRIMARY KEY (tenant, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tenant_file_digest ON tenant_file (tenant, digest);
    CREATE TABLE tenant_batch (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,                   -- grows with time
        is_over INTEGER NOT NULL,
        digest TEXT NOT NULL,               -- of its input, which is kept until it is over
        body BLOB NOT NULL,                 -- JSON of all else
        PRIMARY KEY (tenant, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tenant_batch_active ON tenant_batch (is_over) WHERE NOT is_over;
    """,
)
"""Steps from an empty file to this version, each an SQL script. A step that has been released never changes."""


class RowStatus(IntEnum):
    """Where a row stands."""

    PENDING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3
    ABANDONED = 4

    @property
    def is_final(self) -> bool:
        """Whether it has an outcome."""
        return self >= RowStatus.DONE


class NewRow(Struct, frozen=True):
    """A row as the input has it."""

    index: int
    key: bytes
    name: str | None
    place: str


class RowState(Struct, frozen=True):
    """A row as the store has it."""

    index: int
    key: bytes
    status: RowStatus
    attempts: int
    crashes: int


class Kept(Struct, frozen=True):
    """An outcome as the store has it."""

    index: int
    name: str | None
    status: RowStatus
    attempts: int
    body: bytes | None
    """`None` for a row that has no outcome yet."""


class BatchRecord(Struct, frozen=True, kw_only=True):
    """What the store has on a batch as a whole."""

    id: int
    name: str
    status: str
    definition: dict[str, Any]
    settings: dict[str, Any]
    fingerprint: str | None
    total: int | None
    ran_s: float
    created_at: float
    ended_at: float | None
    process: str | None
    counts: dict[RowStatus, int]
    is_exported: bool
    """Whether what stands at its output is its own."""
    is_running: bool
    """Whether a runner that lives is at work on it."""


class OpenPart(Struct, frozen=True):
    """Rows that have gone to a service together, or were about to."""

    token: str
    model: str
    remote_id: str | None
    rows: frozenset[int]


class Lease(Struct, eq=False):
    """A runner's right to write on a batch."""

    batch: int
    fence: int
    lock: Lock
