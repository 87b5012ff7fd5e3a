"""What the server's own page shows is what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import msgspec

import asyncllm.server
from asyncllm.server import ServerSettings
from asyncllm.server.app import ROUTES

OTHER_NAMES = ["/page", "/rerank", "/v2/rerank"]
"""Parts of the page at /, and what other clients call the route for ranking."""

PAGE = Path(asyncllm.server.__file__).with_name("README.md").read_text("utf-8")


def test_the_page_names_every_route() -> None:
    paths = {path.partition("/{")[0] for _, path, _ in ROUTES}

    assert sorted(path for path in paths if f"`{path}`" not in PAGE) == OTHER_NAMES


def test_the_table_of_the_page_is_one_that_a_server_takes() -> None:
    (table,) = re.findall(r"```toml\n(\[server\].*?)```", PAGE, re.DOTALL)

    settings = msgspec.convert(tomllib.loads(table)["server"], ServerSettings)

    assert settings.fetch_hosts == {"images.example.org"}


async def test_the_application_of_the_page_answers() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    made: dict[str, Any] = {}
    exec(source, made)  # the page's own words

    transport = httpx.ASGITransport(made["application"])
    async with made["client"], httpx.AsyncClient(transport=transport, base_url="http://of.any.name") as http:
        body = {"model": "chat", "messages": [{"role": "user", "content": "one two"}]}
        reply = await http.post("/llm/v1/chat/completions", json=body)

    assert reply.json()["choices"][0]["message"]["content"] == "one two"
