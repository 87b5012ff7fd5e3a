"""A server of the S3 protocol (moto's), started once a session on the loopback, and gone with it.

A file asks for it with `pytest_plugins = ["s3_server"]`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

__all__ = ["S3Server", "s3_server"]

_START_S = 60
_KEYS = {"access_key_id": "AKIDOFTESTS", "secret_access_key": "a-secret-of-tests"}


class S3Server:
    """The server's address, and a client of its own to look what is there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bucket = "batches"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=_KEYS["access_key_id"],
            aws_secret_access_key=_KEYS["secret_access_key"],
        )
        self.client.create_bucket(Bucket=self.bucket)

    def options(self, **over: Any) -> dict[str, Any]:
        """What obstore needs to know of it."""
        return {
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
            "allow_http": True,
            "max_retries": 2,
            **_KEYS,
            **over,
        }

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        assert isinstance(content, bytes)
        return content

    def keys(self, prefix: str) -> list[str]:
        return [
            found["Key"] for found in self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        ]

    def uploads(self) -> list[Any]:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


@pytest.fixture(scope="session")
def s3_server() -> Generator[S3Server]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "PYTHONPATH": ""}) as process:
        try:
            _await(process, port)
            yield S3Server(port)
        finally:
            process.terminate()


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    due = time.monotonic() + _START_S
    while time.monotonic() < due:
        assert process.poll() is None, "moto's server did not start"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("moto's server does not answer")
