"""What is sent to a Maze server and what it answers.

Two routes: `POST /start_llm_instance` and `POST /stop_llm_instance`. Ports come as text or as numbers, errors as
`{"detail": ...}` under status 400, 500 or 503.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.errors import InvalidRequestError, ResponseValidationError
from asyncllm.instances.instance import endpoint_of
from asyncllm.rejection import embedded_error

__all__ = ["Started", "identity_in", "read_started", "read_stopped", "write_start", "write_stop"]

_BACKENDS = ("vllm", "transformers")


class Started(Struct, frozen=True):
    """Where a new instance is."""

    instance_id: str
    host: str
    port: int
    info: dict[str, Any]


class _Named(Struct):
    instance_id: str


class _Reply(Struct):
    instance_id: str
    host: str
    port: int


def write_start(
    model: str,
    *,
    cpu_nums: int,
    memory: int,
    gpu_nums: int,
    backend: str | None,
    gpu_mem: int | None,
    memory_mib: int | None,
    gpu_memory_utilization: float | None,
    max_model_len: int | None,
    extra: Mapping[str, Any],
) -> bytes:
    """The body of a start. Raises `InvalidRequestError` naming the argument that cannot be right."""
    if not isinstance(model, str) or not model:
        raise InvalidRequestError("model names a model, as in facebook/opt-125m", field="model")
    if backend is not None and backend not in _BACKENDS:
        raise InvalidRequestError(f"backend is one of {', '.join(_BACKENDS)}", field="backend")
    counts = {"cpu_nums": cpu_nums, "memory": memory, "gpu_nums": gpu_nums}
    if memory_mib is not None:
        del counts["memory"]  # one of the two: the other has another unit from server to server
        counts["memory_mib"] = memory_mib
    if gpu_mem is not None:
        counts["gpu_mem"] = gpu_mem
    for name, count in counts.items():
        if type(count) is not int or count < 0:
            raise InvalidRequestError(f"{name} is a whole number from 0 up", field=name)
    if max_model_len is not None and (type(max_model_len) is not int or max_model_len < 1):
        raise InvalidRequestError("max_model_len is a whole number from 1 up", field="max_model_len")
    share = gpu_memory_utilization
    if share is not None and not (type(share) in (int, float) and 0 < share <= 1):
        raise InvalidRequestError(
            "gpu_memory_utilization is a number above 0 and up to 1", field="gpu_memory_utilization"
        )
    if not isinstance(extra, Mapping):
        raise InvalidRequestError("extra is a dict of the server's own options", field="extra")
    optional = {"backend": backend, "gpu_memory_utilization": share, "max_model_len": max_model_len}
    body = {
        "model": model,
        **counts,
        **{name: value for name, value in optional.items() if value is not None},
        **extra,
    }
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError):
        raise InvalidRequestError("extra holds something that is not JSON", field="extra") from None


def write_stop(instance_id: str) -> bytes:
    """The body of a stop."""
    return msgspec.json.encode({"instance_id": instance_id})


def read_started(body: bytes, *, sent: bytes) -> Started:
    """The reply to a start. Raises `ResponseValidationError`, or the error that the reply turns out to be."""
    document = _object(body, sent)
    try:
        reply = msgspec.convert(document, _Reply, strict=False)
        endpoint_of(reply.host, reply.port)
    except (msgspec.ValidationError, InvalidRequestError) as error:
        told = embedded_error(body, sent=sent)
        raise told or ResponseValidationError(
            f"the reply to a start does not say where the instance is: {error}", body=body[:65536]
        ) from None
    return Started(reply.instance_id, reply.host, reply.port, document)


def read_stopped(body: bytes, *, sent: bytes) -> dict[str, Any]:
    """The reply to a stop, as it is. Raises `ResponseValidationError`, or the error that the reply turns out to be."""
    document = _object(body, sent)
    if told := embedded_error(body, sent=sent):
        raise told
    return document


def identity_in(body: bytes) -> str | None:
    """The id in the reply to a start that could not be read otherwise, if there is one."""
    try:
        return msgspec.json.decode(body, type=_Named).instance_id or None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _object(body: bytes, sent: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = embedded_error(body, sent=sent)
        raise told or ResponseValidationError("the server's reply is no JSON object", body=body[:65536]) from None
    return document
