"""Tokens by our server, as vLLM has them: with the small real model."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from asyncllm import Client
from served import served, server_of

ASKED = [{"role": "user", "content": "x"}]


async def post(http: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    async with http.post(url, json=body) as reply:
        return reply.status, await reply.json()


async def test_tokens_are_told_and_read_again() -> None:
    messages = [{"role": "user", "content": "Hello wörld"}]
    async with Client(model="llamacpp:smollm2") as client, served(client) as url, aiohttp.ClientSession() as http:
        _, plain = await post(http, f"{url}/tokenize", {"prompt": "Hello wörld", "add_special_tokens": False})
        _, chat = await post(http, f"{url}/tokenize", {"messages": messages})
        _, text = await post(http, f"{url}/detokenize", {"tokens": plain["tokens"]})
        _, nothing = await post(http, f"{url}/detokenize", {"tokens": []})
        status, none = await post(http, f"{url}/detokenize", {"tokens": [10**6]})
        counted = await client.check_prompt("Hello wörld")

    assert text == {"prompt": "Hello wörld"}
    assert nothing == {"prompt": ""}
    assert (status, none["error"]["param"]) == (400, "tokens")
    assert plain["count"] == len(plain["tokens"]) < chat["count"] == counted.tokens
    assert (chat["max_model_len"], chat["token_strs"]) == (counted.limit, None)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"prompt": ""}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": ASKED, "add_generation_prompt": False}, "add_generation_prompt"),
        ("tokenize", {"messages": ASKED, "continue_final_message": True}, "continue_final_message"),
        ("tokenize", {"prompt": "x", "return_token_strs": True}, "return_token_strs"),
        ("tokenize", {"prompt": "x", "model": "other"}, "model"),
        ("tokenize", {"prompt": "x"}, "model"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": "x"}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": [2**31]}, "tokens[0]"),
        ("detokenize", {"tokens": [1]}, "model"),
    ],
)  # fmt: skip
async def test_what_cannot_be_right_is_named(path: str, body: Any, field: str) -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        status, told = await post(http, f"{url}/{path}", body)

    assert (status, told["error"]["param"]) == (404 if body.get("model") else 400, field)
