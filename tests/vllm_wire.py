"""A vLLM server that repeats what it is told: the parts of its wire that are not OpenAI's.

Built from vLLM 0.32: `/health` and `/tokenize` beside `/v1`, models with `max_model_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncllm.testing import Op, SeenRequest, Status, openai_chunks, openai_reply
from asyncllm.testing.ops import Sse
from asyncllm.types import Usage

__all__ = ["LIMIT", "vllm"]

LIMIT = 1024
_WORDS = ("one", "two", "three")


def vllm(request: SeenRequest) -> Sequence[Op]:
    """What a server answers whose model says what it was told."""
    match request.path:
        case "/health":
            return [Status(200)]
        case "/v1/models":
            models = [_model("other-model"), _model("some-model")]
            return [Status(body=msgspec.json.encode({"object": "list", "data": models}))]
        case "/tokenize":
            count = len(_prompt(request.json()).split())
            tokens = [_WORDS.index(word) for word in _prompt(request.json()).split() if word in _WORDS]
            told = {"count": count, "max_model_len": LIMIT, "tokens": tokens or list(range(count)), "token_strs": None}
            return [Status(body=msgspec.json.encode(told))]
        case "/detokenize":
            text = " ".join(_WORDS[token] for token in request.json()["tokens"])
            return [Status(body=msgspec.json.encode({"prompt": text}))]
        case "/v1/embeddings":
            return [_embedded(request.json())]
        case _:
            return [_answer(request.json(), is_chat=request.path == "/v1/chat/completions")]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": name, "max_model_len": LIMIT}


def _prompt(asked: dict[str, Any]) -> str:
    content = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _embedded(asked: dict[str, Any]) -> Status:
    rows = [{"index": at, "embedding": [text.count("a"), text.count("r")]} for at, text in enumerate(asked["input"])]
    return Status(body=msgspec.json.encode({"data": rows, "model": asked["model"]}))


def _answer(asked: dict[str, Any], *, is_chat: bool) -> Op:
    text = _prompt(asked)
    if "response_format" in asked:
        text = '{"answer": true}'
    if "structured_outputs" in asked:
        assert len({"regex", "choice", "grammar"} & asked["structured_outputs"].keys()) == 1
        text = "yes"
    for stop in asked.get("stop", ()):
        text = text.partition(stop)[0]
    words = text.split(" ")
    limit = asked.get("max_tokens", len(words))
    finish = "stop" if len(words) <= limit else "length"
    usage = Usage(input_tokens=len(text) + 1, output_tokens=min(limit, len(words)))
    said = [word if at == 0 else f" {word}" for at, word in enumerate(words[:limit])]
    count = asked.get("n", 1)
    if not asked.get("stream"):
        body = openai_reply(["".join(said)] * count, finish=finish, usage=usage, model=asked["model"])
        return Status(body=_shaped(asked, body, is_chat=is_chat))
    chunks: list[bytes] = []
    for index in range(count):
        last = usage if index == count - 1 else None
        chunks += openai_chunks(said, finish=finish, usage=last, index=index, model=asked["model"])
    return Sse([_shaped(asked, chunk, is_chat=is_chat) for chunk in chunks])


def _shaped(asked: dict[str, Any], document: bytes, *, is_chat: bool) -> bytes:
    reply = msgspec.json.decode(document)
    for choice in reply["choices"]:
        text = choice.get("message", choice.get("delta", {})).get("content")
        if asked.get("logprobs") and text:
            count = asked.get("top_logprobs", 0) if is_chat else asked["logprobs"]
            tops = [{"token": text, "logprob": -0.5}] * count
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": tops}]}
        if not is_chat:
            choice["text"] = text
    return msgspec.json.encode(reply)
