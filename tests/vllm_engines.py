"""Real engines of vLLM for tests: started once a session, and held for every event loop that comes by."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from asyncllm import Client
from asyncllm.backend import Config
from asyncllm_vllm.adapter import Core
from asyncllm_vllm.engine import Engine, borrow, give_back
from asyncllm_vllm.options import read_options
from bench.models import models_folder, smollm2, tiny_llama

__all__ = [
    "QUICK",
    "chat_ids",
    "client_of",
    "engine_options",
    "held",
    "naked",
    "no_white_space",
    "processes_of",
    "small",
    "stands_still",
    "tiny",
    "until",
]

QUICK: Mapping[str, Any] = {"max_model_len": 1024, "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20}
"""Options with which an engine starts in seconds."""

_numbers = itertools.count()


def tiny() -> str:
    """The folder of the tiny random model."""
    return str(tiny_llama(models_folder() / "tiny-llama"))


def small() -> str:
    """The folder of the small real model."""
    return str(smollm2(models_folder() / "smollm2"))


@contextmanager
def held(model: str, options: Mapping[str, Any] = QUICK) -> Generator[Engine]:
    """An engine that clients with the same options find running, on whatever loop, as long as the block lasts."""
    engine = borrow(model, read_options(Config(backend="vllm", options=dict(options))))
    try:
        asyncio.run(_ready(engine))
        yield engine
    finally:
        if give_back(engine):
            engine.join(30)


async def _ready(engine: Engine) -> None:
    await engine.ready()


def client_of(engine: Engine, **settings: Any) -> Client:
    """A client that shares `engine`."""
    return Client(model=f"vllm:{engine.model}", options=engine_options(engine), retry=None, env={}, **settings)


def engine_options(engine: Engine) -> dict[str, Any]:
    """The options that `engine` was started with."""
    options = engine.options
    own = {name: getattr(options, name) for name in options.__struct_fields__ if name != "engine"}
    return {**own, **options.engine}


async def naked(core: Core, prompt: Sequence[int], *, lora: Any = None, **params: Any) -> Any:
    """What the engine says to token ids when nothing of asyncllm stands between: its one, last output."""
    engine: Any = core._engine
    sampling = import_module("vllm.sampling_params")
    parsed = import_module("vllm.renderers.inputs.preprocess").parse_model_prompt(
        engine.model_config, {"prompt_token_ids": list(prompt)}
    )
    (rendered,) = await engine.renderer.render_cmpl_async([parsed])
    params = {"output_kind": sampling.RequestOutputKind.FINAL_ONLY, **params}
    said = engine.generate(rendered, sampling.SamplingParams(**params), f"naked-{next(_numbers)}", lora_request=lora)
    (output,) = [output async for output in said]
    return output


def chat_ids(core: Core, text: str) -> list[int]:
    """A user's text as the tokenizer itself puts it into the model's template."""
    tokenizer: Any = core._engine.get_tokenizer()
    messages = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def no_white_space(engine: Engine) -> dict[str, float]:
    """A bias against it: JSON allows any amount, and a model that says anything would never come to an end of it."""
    tokenizer: Any = engine.core._engine.get_tokenizer()
    return {str(number): -100.0 for token, number in tokenizer.get_vocab().items() if not token.strip("ĠĊĉč")}


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return as soon as `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what it looks at tells nobody
            await asyncio.sleep(0.001)


async def stands_still(core: Core) -> bool:
    """Whether the engine has nothing to do, by its own count of tokens: in the time waited it makes hundreds."""
    await asyncio.sleep(0.05)  # the step that was under way, and what it made on its way here
    made = core.generated
    await asyncio.sleep(0.1)
    return core.generated == made and core.unfinished == 0


def processes_of(parent: int) -> set[int]:
    """The processes that `parent` has begun and that have not ended, by their ids."""
    found = " ".join(path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children"))
    return {int(one) for one in found.split() if _runs(int(one))}


def _runs(pid: int) -> bool:
    """Whether a process is at work: not one that has ended and waits to be asked, nor Python's own janitor."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        return state != "Z" and b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
