"""What the backend can be told. Nothing here imports vLLM: its own arguments are checked when its engine starts."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import Config
from asyncllm.errors import ConfigError

__all__ = ["Options", "read_options"]


class Options(Struct, frozen=True, kw_only=True):
    """How a model's engine is started. Two starts of one model with equal options are one."""

    lora_modules: dict[str, str] = {}
    """Folders of LoRA adapters by the names that calls use: `extra={"lora": name}`. Needs `enable_lora=True`."""
    tool_call_parser: str | None = None
    """vLLM's name for the way in which the model writes tool calls, such as `hermes`; without it tools are refused."""
    tool_strict_level: str = "parameter"
    """How far vLLM holds a called tool's arguments to their schema: `auto`, `function` or `parameter`."""
    chat_template: str | None = None
    """A Jinja template, or the path of one, in place of the model's own."""
    chat_template_kwargs: dict[str, Any] = {}
    """What every chat gives to the template, such as `{"enable_thinking": False}`."""
    restart: bool = False
    """Whether a call that finds the engine dead starts a new one."""
    progress: bool | None = None
    """Whether starting says how far it is on stderr; by default where that is a terminal."""
    start_s: float = 600.0
    """Seconds that a start may take."""
    shutdown_s: float = 10.0
    """Seconds that the engine gets to end by itself."""
    engine: dict[str, Any] = {}
    """vLLM's engine arguments, by their own names."""

    @property
    def key(self) -> bytes:
        """The same for equal options, in whatever order they were given."""
        return msgspec.json.encode(self, order="sorted", enc_hook=repr)


_OURS = frozenset(Options.__struct_fields__) - {"engine"}


def read_options(config: Config) -> Options:
    """Check the configuration. Raises `ConfigError` naming the option."""
    if config.base_url or config.api_key:
        raise ConfigError(
            f"the {config.backend!r} backend runs in this process: it takes no base_url and no api_key; for a server "
            "use openai:",
            backend=config.backend,
            field="base_url" if config.base_url else "api_key",
        )
    given = config.options
    own = {name: value for name, value in given.items() if name in _OURS}
    engine = {name: value for name, value in given.items() if name not in _OURS}
    if "model" in engine:
        raise ConfigError(
            "the model stands in the model string, as in vllm:NAME", backend=config.backend, field="model"
        )
    try:
        options = msgspec.convert({**own, "engine": engine}, Options)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        raise ConfigError(
            f"the option {place.rstrip('`')!r} of the {config.backend!r} backend: {reason[:1].lower()}{reason[1:]}",
            backend=config.backend,
            field=place.rstrip("`"),
        ) from None
    for name in ("start_s", "shutdown_s"):
        if not getattr(options, name) > 0:
            raise ConfigError(f"{name} is a number of seconds above zero", backend=config.backend, field=name)
    if options.lora_modules and not engine.get("enable_lora"):
        raise ConfigError("lora_modules needs enable_lora=True", backend=config.backend, field="lora_modules")
    return options
