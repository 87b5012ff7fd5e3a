"""`GET /metrics`: figures of all processes of the server, in Prometheus's text."""

from __future__ import annotations

from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.monitoring.figures import write_text

__all__ = ["Metrics"]

_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Metrics(Endpoint):
    """The figures."""

    needs = "metrics"
    described = Described(reply=str, reply_type="text/plain")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        body = write_text(await self.service.admission.telling.series()).encode()
        head = [_TYPE, (b"content-length", b"%d" % len(body))]
        await incoming.send({"type": "http.response.start", "status": 200, "headers": head})
        await incoming.send({"type": "http.response.body", "body": body})
