"""llama.cpp's own listener, which cannot be turned off, and the few questions that only it answers.

It is bound to a Unix socket in a folder that only this user may enter, and asks for a random key: nothing is
reachable from outside. The template-aware token count and the model's facts are asked for here; generations are not.
"""

from __future__ import annotations

import http.client
import secrets
import shutil
import socket
import tempfile
import weakref
from pathlib import Path

from asyncllm.errors import APIConnectionError
from asyncllm.rejection import rejection

__all__ = ["Listener"]

_TIMEOUT_S = 60


class Listener:
    """Where one engine listens. Its folder goes with it, or when the process ends."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="asyncllm-")  # mode 0700
        self.key = secrets.token_urlsafe(24)
        self.path = str(Path(folder, "llama.sock"))  # llama.cpp knows a socket by its `.sock`
        self._clean = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the socket, which llama.cpp leaves behind."""
        self._clean()

    def disown(self) -> None:
        """Leave the socket to the process that this one was forked from."""
        self._clean.detach()

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One question, answered whole; blocks. Raises `APIStatusError`, `APIConnectionError`."""
        connection = _UnixConnection(self.path)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            told = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise APIConnectionError(f"llama.cpp does not answer {path}: {type(error).__name__}") from error
        finally:
            connection.close()
        if reply.status != 200:
            raise rejection(reply.status, {}, told, sent=body or b"")
        return told


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)
