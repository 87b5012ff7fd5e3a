"""An Azure OpenAI resource: deployments, keys and tokens, its first chunk without choices, its errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from asyncllm.testing import SeenRequest, Sse, Status, openai_chunks, openai_reply
from asyncllm.testing.ops import Op
from asyncllm.types import Usage

__all__ = ["BLOCKED", "KEY", "SAFE", "Resource", "refusal"]

KEY = "azure-key-5e1f0c7a2b"
SAFE: dict[str, Any] = {
    "hate": {"filtered": False, "severity": "safe"},
    "jailbreak": {"filtered": False, "detected": False},
    "violence": {"filtered": False, "severity": "safe"},
}
BLOCKED = {
    **SAFE,
    "jailbreak": {"filtered": True, "detected": True},
    "violence": {"filtered": True, "severity": "high"},
}
USAGE = Usage(input_tokens=8, output_tokens=34, cached_tokens=0)


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None, **more: Any) -> list[Op]:
    """An error in Azure's form."""
    body = {"error": {"code": code, "message": message, **more}}
    return [Status(status, {"apim-request-id": "apim-1", **(headers or {})}, msgspec.json.encode(body))]


class Resource:
    """What answers at `{endpoint}/openai`: the `scripts` of a `FaultyServer`."""

    def __init__(self, *deployments: str, tokens: Sequence[str] = ()) -> None:
        self.deployments = deployments or ("gpt-4o",)
        self.tokens = set(tokens)
        self.versions: list[str | None] = []
        """The `api-version` of each call that was let in."""

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        if request.headers.get("api-key") != KEY and not self._knows(request.headers.get("authorization", "")):
            return refusal(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        url = urlsplit(request.path)
        version = parse_qs(url.query).get("api-version", [None])[0]
        self.versions.append(version)
        path = url.path
        if path in ("/openai/models", "/openai/v1/models"):
            return [Status(body=b'{"object":"list","data":[{"id":"gpt-4o-2024-11-20","object":"model"}]}')]
        document = request.json()
        dated = re.fullmatch(r"/openai/deployments/([^/]+)(/.+)", path)
        if dated is not None and version is not None:
            deployment, call = unquote(dated[1]), dated[2]
        elif path.startswith("/openai/v1/") and version is None:
            deployment, call = document["model"], path.removeprefix("/openai/v1")
        else:
            return refusal(404, "404", "Resource not found")
        if deployment not in self.deployments:
            return refusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        return self._answer(call, document)

    def _knows(self, authorization: str) -> bool:
        return authorization.removeprefix("Bearer ") in self.tokens

    def _answer(self, call: str, document: dict[str, Any]) -> Sequence[Op]:
        if call == "/embeddings":
            rows = [{"index": index, "embedding": [float(len(text))]} for index, text in enumerate(document["input"])]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return [Status(body=msgspec.json.encode({"data": rows[::-1], "model": "m", "usage": usage}))]
        if not document.get("stream"):
            return [Status(body=openai_reply("hello", usage=USAGE, model="gpt-4o-2024-11-20"))]
        verdict = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"content_filter_results": SAFE}]}
        chunks = openai_chunks(["hel", "lo"], usage=USAGE, model="gpt-4o-2024-11-20")
        return [Sse([verdict, *chunks])]
