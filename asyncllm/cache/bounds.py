"""The settings that every cache takes, checked."""

from __future__ import annotations

from asyncllm.errors import ConfigError

__all__ = ["check_bounds"]


def check_bounds(max_bytes: int, ttl_s: float | None, *, least_bytes: int = 1) -> None:
    """Raise `ConfigError` naming the setting that cannot be right."""
    if type(max_bytes) is not int or max_bytes < least_bytes:
        raise ConfigError(f"max_bytes is a whole number from {least_bytes} up; got {max_bytes!r}", field="max_bytes")
    # NaN compares false with everything: say what is right, not what is wrong.
    if ttl_s is not None and not (type(ttl_s) in (int, float) and ttl_s > 0):
        raise ConfigError(f"ttl_s is a number of seconds above zero, or None for ever; got {ttl_s!r}", field="ttl_s")
