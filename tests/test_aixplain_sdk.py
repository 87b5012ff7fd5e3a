"""The vendor's own client and ours, against one server: the same requests, the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import vendor_sdk
from aixplain_server import MODEL, answer, result, service, told
from asyncllm import APIStatusError, Client, Message
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "team-key"
SDK = """
from aixplain.modules.model.llm_model import LLM
from aixplain.enums import Function
def model(temperature=None):
    return LLM(id=given["model"], name="m", api_key="team-key", function=Function.TEXT_GENERATION,
        temperature=temperature, supports_streaming=True)
def shown(reply):
    return [reply.data, reply["usedCredits"], reply["runTime"], reply.usage]
history = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"}]
told = [
    shown(model().run("three words here")),
    shown(model(0.7).run("three", context="Be brief.", history=history, temperature=0.3, top_p=0.5,
        parameters={"prompt": "P: ", "max_tokens": 9})),
    shown(model().run("LATER please", wait_time=0.2)),
    "".join(piece.data for piece in model().run("three words here", stream=True)),
]
for status in given["statuses"]:
    told.append(model().run(f"FAIL {status}").error_message)
print(json.dumps(told))
"""
STATUSES = [400, 401, 402, 403, 404, 429, 460, 475, 480, 495, 500, 503, 504]


@pytest.fixture(scope="module")
def python() -> Path:
    return vendor_sdk.environment("aixplain", "aixplain==0.2.48")


def serve(request: SeenRequest) -> Sequence[Op]:
    """The service, with a text that takes its time, and texts that are refused."""
    if request.method == "GET":
        return [answer(result("later", usage={"prompt_tokens": 1, "completion_tokens": 1}))]
    words = request.json()["data"].split()
    if words[0] == "LATER":
        return [told(status="IN_PROGRESS", data=f"http://{request.headers['host']}/sdk/runs/1")]
    if words[0] == "FAIL":
        return [Status(int(words[1]), {"Content-Type": "application/json"}, b'{"error":"so it is"}')]
    return service(request)


async def test_both_clients_send_the_same_and_read_the_same(python: Path) -> None:
    async with FaultyServer(serve) as server:
        env = {
            "TEAM_API_KEY": KEY,
            "BACKEND_URL": server.url,
            "MODELS_RUN_URL": f"{server.url}/api/v1/execute",
            "AIXPLAIN_ALLOW_INSECURE_URLS": "1",
            "AIXPLAIN_SUPPRESS_V1_DEPRECATION": "1",
        }
        theirs = await vendor_sdk.run(python, SDK, {"model": MODEL, "statuses": STATUSES}, env)
        sent = [_sent(request) for request in server.requests]
        server.requests.clear()
        async with Client(model=f"aixplain:{MODEL}", env=env, retry=None) as client:
            ours = await _told(client)

    # A question more or less after a run is a matter of time.
    posts = [one for one in sent if one[0] == "POST"]
    assert [one for one in map(_sent, server.requests) if one[0] == "POST"] == posts
    assert {one for one in map(_path, server.requests) if one[0] == "GET"} == {("GET", "/sdk/runs/1", KEY)}
    assert ours[:4] == theirs[:4]
    for ours_said, theirs_said in zip(ours[4:], theirs[4:], strict=True):
        assert ours_said.endswith("Details: so it is")
        assert theirs_said.endswith("Details: so it is")


def _path(request: SeenRequest) -> tuple[str, str, str]:
    return request.method, request.path, request.headers["x-api-key"]


def _sent(request: SeenRequest) -> tuple[str, str, str, dict[str, Any]]:
    """A request without the nulls, and the default, that the vendor's client writes out."""
    body: dict[str, Any] = request.json() if request.body else {}
    body = {name: value for name, value in body.items() if value is not None}
    if body.get("max_tokens") == 128:
        del body["max_tokens"]
    return *_path(request), body


async def _told(client: Client) -> list[Any]:
    turns = [
        Message("system", "Be brief."), Message("user", "one?"), Message("assistant", "two"), Message("user", "three")
    ]  # fmt: skip
    replies = [
        await client.chat("three words here"),
        await client.chat(turns, temperature=0.3, top_p=0.5, max_tokens=9, extra={"prompt": "P: "}),
        await client.chat("LATER please"),
    ]
    said: list[Any] = [
        [reply.text, reply.raw["usedCredits"], reply.raw["runTime"], reply.raw.get("usage")] for reply in replies
    ]
    said.append("".join([text async for text in client.stream_text("three words here")]))
    for status in STATUSES:
        with pytest.raises(APIStatusError) as caught:
            await client.chat(f"FAIL {status}")
        assert caught.value.status == status
        said.append(caught.value.message)
    return said
