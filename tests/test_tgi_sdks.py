"""Hugging Face's own clients and ours, against one server: the same request, and the same reading of the same reply."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncllm import Client, JsonSchema, Regex, TextDelta
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status
from tgi_server import tgi

PROMPT = "one two three four five"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "boolean"}}}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "length": ({"max_tokens": 3}, {"max_new_tokens": 3}),
    "greedy": ({"temperature": 0}, {"do_sample": False}),
    "sampled": (
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 7, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
        {
            "temperature": 0.5,
            "do_sample": True,
            "top_p": 0.9,
            "top_k": 5,
            "seed": 7,
            "repetition_penalty": 1.1,
            "frequency_penalty": 0.1,
        },
    ),
    "probabilities": ({"top_logprobs": 2}, {"top_n_tokens": 2}),
    "schema": ({"constraint": JsonSchema(SCHEMA)}, {"grammar": {"type": "json", "value": SCHEMA}}),
    "regex": ({"constraint": Regex("yes|no")}, {"grammar": {"type": "regex", "value": "yes|no"}}),
    "extras": (
        {"extra": {"typical_p": 0.9, "truncate": 5, "watermark": True}},
        {"typical_p": 0.9, "truncate": 5, "watermark": True},
    ),
}
"""Options by our names and by theirs."""

ROOT = Path(__file__).parent.parent
SDK = ROOT / ".cache" / "sdks" / "text-generation==0.7.0"
# Its newest release forbids the huggingface_hub that everything else here needs, and works with it all the same.
_SCRIPT = """
import asyncio, json, sys
from text_generation import AsyncClient

async def main(url, prompt, options):
    client = AsyncClient(url)
    whole = await client.generate(prompt, **options)
    pieces = [piece async for piece in client.generate_stream(prompt, **options)]
    print(json.dumps({
        "text": whole.generated_text,
        "reason": whole.details.finish_reason.value,
        "tokens": whole.details.generated_tokens,
        "streamed": "".join(piece.token.text for piece in pieces if not piece.token.special),
        "last": pieces[-1].generated_text,
    }))

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
"""


def at_the_root(request: SeenRequest) -> Sequence[Op]:
    """TGI, with the route at its root that takes a plain call or a streamed one by a field."""
    if request.path != "/":
        return tgi(request)
    stream = bool(request.json().get("stream"))
    inner = msgspec.structs.replace(request, path="/generate_stream" if stream else "/generate")
    ops = tgi(inner)
    if not stream:
        (reply,) = ops
        assert isinstance(reply, Status)
        return [msgspec.structs.replace(reply, body=b"[" + (reply.body or b"") + b"]")]
    return ops


def asked(request: SeenRequest) -> tuple[str, Mapping[str, Any]]:
    """The prompt and the parameters of a request, without those that say what TGI does by itself."""
    body = request.json()
    usual: dict[str, Any] = {"watermark": False, "decoder_input_details": False, "return_full_text": False, "stop": []}
    kept = {
        name: value
        for name, value in body["parameters"].items()
        if value is not None and not (name in usual and value == usual[name])
    }
    return body["inputs"], kept


async def ours(url: str, **options: Any) -> tuple[Any, str]:
    """The reply to a plain call, and the text of a streamed one."""
    async with Client(model="tgi:some-model", base_url=url, retry=None, env={}) as client:
        whole = await client.complete(PROMPT, **options)
        async with client.stream_complete(PROMPT, **options) as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]
    return whole, "".join(texts)


@pytest.mark.parametrize("case", OPTIONS)
async def test_huggingface_hub_generates_alike(case: str) -> None:
    from huggingface_hub import AsyncInferenceClient

    mine, theirs = OPTIONS[case]
    async with FaultyServer(at_the_root) as server:
        whole, text = await ours(server.url, **mine)
        sdk: Any = AsyncInferenceClient(model=server.url, token="hf_x")
        told = await sdk.text_generation(PROMPT, details=True, **theirs)
        pieces = [piece async for piece in await sdk.text_generation(PROMPT, details=True, stream=True, **theirs)]
        await sdk.close()

    plain, streamed, sdk_plain, sdk_streamed = server.requests
    assert asked(plain) == asked(sdk_plain)
    assert asked(streamed) == asked(sdk_streamed)
    assert [seen.headers["content-type"] for seen in server.requests] == ["application/json"] * 4
    assert told.details is not None
    assert (whole.text, whole.choices[0].finish_reason_raw) == (told.generated_text, told.details.finish_reason)
    assert whole.usage.output_tokens == told.details.generated_tokens
    assert text == "".join(piece.token.text for piece in pieces if not piece.token.special) == pieces[-1].generated_text
    if mine.get("top_logprobs"):
        assert [one.logprob for one in whole.logprobs] == [token.logprob for token in told.details.tokens]


async def test_huggingface_hub_chats_alike() -> None:
    from huggingface_hub import AsyncInferenceClient

    options: dict[str, Any] = {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.1}
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": PROMPT}]
    async with FaultyServer(tgi) as server:
        async with Client(model="tgi:some-model", base_url=server.url, retry=None, env={"HF_TOKEN": "hf_x"}) as client:
            mine = await client.chat(messages, stop=["never"], top_logprobs=1, **options)
            async with client.stream(messages, stop=["never"], **options) as stream:
                async for _ in stream:
                    pass
        sdk: Any = AsyncInferenceClient(base_url=server.url, token="hf_x")
        theirs = await sdk.chat_completion(
            messages, model="some-model", stop=["never"], logprobs=True, top_logprobs=1, **options
        )
        chunks = [
            chunk
            async for chunk in await sdk.chat_completion(
                messages,
                model="some-model",
                stop=["never"],
                stream=True,
                stream_options={"include_usage": True},
                **options,
            )
        ]
        await sdk.close()

    plain, streamed, sdk_plain, sdk_streamed = server.requests
    assert plain.path == sdk_plain.path
    assert plain.headers["authorization"] == sdk_plain.headers["authorization"] == "Bearer hf_x"
    assert plain.json() == {name: value for name, value in sdk_plain.json().items() if value not in (None, False)}
    assert streamed.json() == {name: value for name, value in sdk_streamed.json().items() if value is not None}
    assert mine.text == theirs.choices[0].message.content
    assert mine.finish_reason == theirs.choices[0].finish_reason
    assert mine.usage.output_tokens == theirs.usage.completion_tokens
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert stream.response.text == said


@pytest.fixture(scope="module")
def sdk_folder() -> Path:
    """A folder that `text-generation` is installed into, beside what it needs and finds here."""
    if not SDK.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(SDK), SDK.name]
        subprocess.run(command, check=True)
    return SDK


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
async def test_text_generation_generates_alike(sdk_folder: Path, case: str) -> None:
    mine, theirs = OPTIONS[case]
    async with FaultyServer(at_the_root) as server:
        whole, text = await ours(server.url, **mine)
        command = [sys.executable, "-c", _SCRIPT, server.url, PROMPT, msgspec.json.encode(theirs).decode()]
        sdk = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(sdk_folder)}
        )
        told = msgspec.json.decode((await sdk.communicate())[0])

    plain, streamed, sdk_plain, sdk_streamed = server.requests
    # It always sends what stands for nothing else in ours: its own length, and that it does not sample.
    sent = [asked(request) for request in (sdk_plain, sdk_streamed)]
    for request, (inputs, parameters) in zip((plain, streamed), sent, strict=True):
        own = asked(request)
        assert own == (inputs, {name: parameters[name] for name in own[1]})
        assert parameters.keys() - own[1].keys() <= {"max_new_tokens", "do_sample"}
    assert (whole.text, whole.choices[0].finish_reason_raw) == (told["text"], told["reason"])
    assert whole.usage.output_tokens == told["tokens"]
    assert text == told["streamed"] == told["last"]
