"""Options of `run_batch`."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from asyncllm.batch.report import OnRunProgress
from asyncllm.calls import CallOptions

if TYPE_CHECKING:
    from asyncllm.batch.evaluator import ToolConfig
    from asyncllm.batch.parts import VendorSettings
    from asyncllm.sandbox import Sandbox

__all__ = ["Location", "OnBadRow", "RunOptions", "RunSettings", "Via"]

Location: TypeAlias = str | PathLike[str]
"""A path, `-`, or an address such as `s3://bucket/key`."""

OnBadRow: TypeAlias = Literal["refuse", "fail"]

Via: TypeAlias = Literal["client", "ray", "vendor"]


class RunOptions(CallOptions, total=False):
    """Keyword arguments of `run_batch`, beside those of the calls that it makes.

    `model` goes before the model that a row names. There is no `output_type`: an outcome that is kept is text or JSON.
    """

    store: Location
    """Folder of what is kept until the end and after it; by default the output's name with `.batch` behind it."""
    errors: Location
    """Where failed rows go, for formats that have a file of their own for them: `x.errors.jsonl` beside `x.jsonl`."""
    format: str
    """Of the input: `openai`, `llmengine`, `jsonl`, `csv` or `parquet`; told from its name and its beginning if left
    out."""
    output_format: str
    """Of the output: that of the input unless said otherwise."""
    template: Any
    """What makes a prompt of a row's columns: a text, or messages, with the names of columns in braces."""
    concurrency: int
    """Rows under way at once, 64 unless said."""
    max_attempts: int
    """How often a row is asked whose call fails in a way that may pass, over all runs: 3 unless said. The client's own
    retries come on top of each."""
    max_runtime_s: float
    """Seconds of work, over all runs, after which no more rows are asked: the batch is `expired`."""
    max_failure_rate: float
    """Share of failed rows, from 0 to 1, above which no more are asked, once 20 have failed."""
    on_bad_row: OnBadRow
    """What happens when a row of a file cannot be asked: `refuse` the whole batch before the first call, which is the
    default, or let the row `fail` alone."""
    drain_s: float
    """Seconds that rows under way have to end when the batch is cancelled or out of time: 30 unless said."""
    labels: Mapping[str, str]
    """Names and values for people, kept with the batch."""
    priority: str
    """Sent to services that work off batches by priority; kept with the batch in any case."""
    max_row_bytes: int
    """A longer row of a file is an error of its own: 16 MiB unless said."""
    reserve_bytes: int
    """Room on the disk that is left free: with less, the batch pauses until there is more. 64 MiB unless said."""
    overwrite: bool
    """Whether something that stands at the output may be written over."""
    retry_failed: bool
    """Whether rows that have failed before are asked again."""
    via: Via
    """Who works the rows off: the `client`, call by call, which is the default; clients like it in actors of a Ray
    cluster (`ray`), which needs `asyncllm[ray]`; or the service of its model in batches of its own (`vendor`), for less
    money and with more patience. Limits, budget, hooks, retries and the cache of the client hold for calls alone.
    Cancelled, it leaves what is with the service there; the next run waits for it."""
    vendor: VendorSettings | Mapping[str, Any]
    """With `via="vendor"`: how its batches are made and waited for."""
    tool_config: ToolConfig | Mapping[str, Any]
    """LLM Engine's: lets a model that continues texts have its code run, in the `sandbox`; see `evaluator.py`."""
    sandbox: Sandbox
    """Where that code runs, made by `asyncllm.sandbox.open_sandbox`. Without one, none is."""
    notes: Mapping[str, Any]
    """Plain data that is kept with the batch for whoever runs it again; nothing secret."""
    data_parallelism: int
    """Workers that ask the rows, from 1 to 64: processes of this machine, or actors with `via="ray"`. 1 unless said,
    which is this process itself. Each has a client and engines of its own, and its share of the client's limits. A
    client with a budget, hooks, cache, transport, clock or backend object is refused: workers cannot have it."""
    ray_options: Mapping[str, Any]
    """With `via="ray"`: the `address` of the cluster, and what each actor asks of it, `num_cpus`, `num_gpus`, `memory`,
    `resources`, `accelerator_type` or `runtime_env`. Without an address it is that of `RAY_ADDRESS`, or a cluster of
    this process's own, on this machine, which ends with the batch."""
    place_options: Mapping[str, Any]
    """For object stores: `endpoint`, `region` and what else they are reached by, over the environment."""
    progress: OnRunProgress
    """Told how far it has come, several times a second at the most."""


class RunSettings(Struct, frozen=True, kw_only=True):
    """What may differ from run to run of one batch; see `RunOptions`."""

    concurrency: Annotated[int, Meta(ge=1)] = 64
    max_attempts: Annotated[int, Meta(ge=1)] = 3
    max_runtime_s: Annotated[float, Meta(gt=0)] | None = None
    max_failure_rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    on_bad_row: OnBadRow = "refuse"
    drain_s: Annotated[float, Meta(ge=0)] = 30
    reserve_bytes: Annotated[int, Meta(ge=0)] = 64 * 2**20
    labels: dict[str, str] = {}
    priority: str | None = None
    data_parallelism: Annotated[int, Meta(ge=1, le=64)] = 1
