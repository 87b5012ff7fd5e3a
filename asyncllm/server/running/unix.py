"""A socket in the file system, for whoever may open it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from asyncllm.errors import ConfigError

__all__ = ["leave_unix", "listen_unix"]

_OTHERS = 0o177  # all that nobody but the owner may do


def listen_unix(path: str, *, backlog: int) -> socket.socket:
    """A socket at `path` that listens, and that its owner alone may connect to.

    One that a dead server has left behind is replaced. Raises `ConfigError` where somebody listens there, where there
    is something else, and where no socket can be made.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise ConfigError("this system has no unix sockets: listen on a port", field="uds")
    _clear(path, family)
    listening = socket.socket(family)
    mask = os.umask(_OTHERS)  # there is no moment at which somebody else may connect
    try:
        listening.bind(path)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {path}: {error}", field="uds") from error
    finally:
        os.umask(mask)
    return listening


def leave_unix(path: str) -> None:
    """Nobody listens there any more."""
    Path(path).unlink(missing_ok=True)


def _clear(path: str, family: int) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} is there already, and is no socket: choose another path", field="uds")
        with socket.socket(family) as asking:
            asking.setblocking(False)  # a queue that is full is one of somebody who lives
            asking.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error}", field="uds") from error
    raise ConfigError(f"a server listens on {path} already: end it, or choose another path", field="uds")
