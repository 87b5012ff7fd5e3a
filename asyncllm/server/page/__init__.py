"""The page of a server: `GET /`, and the files beside this one that it is made of.

It talks to the server's own routes by addresses relative to itself, so it works where the application is mounted below
a path; it needs no build and nothing from anywhere else. `page.js` starts it, `server.js` asks the server, `sse.js`
reads its streams, `chat.js` has conversations, and `panels.js` what is under way, used and in batches. Whatever comes
from a model or a person becomes text and never markup, and the browser is told to hold us to it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from asyncllm.errors import NotFoundError
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming, header_of
from asyncllm.server.service import Service

__all__ = ["FILES", "Page"]

FILES = ("style.css", "page.js", "server.js", "sse.js", "chat.js", "panels.js")
"""What the page is made of besides its text."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_KINDS = {".html": b"text/html", ".css": b"text/css", ".js": b"text/javascript"}
_GUARDS = [
    (b"cache-control", b"no-cache"),  # asked for each time, and sent again only after a change
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Page(Endpoint):
    """Sends the files, which are read once."""

    needs = None
    described = Described(reply=str, reply_type="text/html", also=("text/css", "text/javascript"), absent="file")

    def __init__(self, service: Service, path: str = "") -> None:
        super().__init__(service, path)
        folder = Path(__file__).parent
        self._files = {"": _Asset(folder / "index.html"), **{name: _Asset(folder / name) for name in FILES}}

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`. Raises `NotFoundError` for a file that is none of these."""
        asset = self._files.get(incoming.scope["path_params"].get("name", ""))
        if asset is None:
            raise NotFoundError("the page has no such file", status=404, code="no_route")
        known = (header_of(incoming.scope, b"if-none-match") or b"").split(b",")
        if asset.tag in [tag.strip().removeprefix(b"W/") for tag in known]:
            await incoming.send({"type": "http.response.start", "status": 304, "headers": asset.headers})
            await incoming.send({"type": "http.response.body", "body": b""})
            return
        length = (b"content-length", b"%d" % len(asset.body))
        await incoming.send({"type": "http.response.start", "status": 200, "headers": [*asset.headers, length]})
        await incoming.send({"type": "http.response.body", "body": asset.body})


class _Asset:
    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.tag = b'"%b"' % hashlib.sha256(self.body).hexdigest()[:32].encode()
        kind = _KINDS[path.suffix] + b"; charset=utf-8"
        self.headers = [(b"content-type", kind), (b"etag", self.tag), *_GUARDS]
