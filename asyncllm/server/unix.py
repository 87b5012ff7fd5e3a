"""A Unix socket to listen on."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from asyncllm.errors import ConfigError

__all__ = ["forget", "listen_unix"]


def listen_unix(path: str, backlog: int) -> socket.socket:
    """Listen at `path`, where a socket that nobody listens on any more is replaced. Raises `ConfigError`."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        _clear(path)
        listening.bind(path)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}", field="uds") from error
    return listening


def forget(path: str) -> None:
    """Nobody listens at `path` any more."""
    Path(path).unlink(missing_ok=True)


def _clear(path: str) -> None:
    """Remove what a server has left behind. Raises `OSError` where one is there, or something else."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return  # binding to it says what is wrong
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(5)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
