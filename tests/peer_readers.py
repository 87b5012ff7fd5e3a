"""Frameworks that pin other releases than ours, each reading one stream of a server: run by their own interpreter.

    python tests/peer_readers.py http://127.0.0.1:8000 pydantic_ai

Prints the text that was read and how many pieces it came in, as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any


async def any_llm(url: str) -> list[str]:
    peer: Any = importlib.import_module("any_llm")
    stream = await peer.acompletion(
        model="m", provider="openai", messages=[{"role": "user", "content": "x"}], stream=True, api_key="k",
        api_base=f"{url}/v1",
    )  # fmt: skip
    return [
        chunk.choices[0].delta.content async for chunk in stream if chunk.choices and chunk.choices[0].delta.content
    ]


async def pydantic_ai(url: str) -> list[str]:
    peer: Any = importlib.import_module("pydantic_ai")
    models: Any = importlib.import_module("pydantic_ai.models.openai")
    providers: Any = importlib.import_module("pydantic_ai.providers.openai")
    model = models.OpenAIChatModel("m", provider=providers.OpenAIProvider(base_url=f"{url}/v1", api_key="k"))
    async with peer.Agent(model).run_stream("x") as run:
        return [text async for text in run.stream_text(delta=True, debounce_by=None)]


async def llama_index(url: str) -> list[str]:
    peer: Any = importlib.import_module("llama_index.llms.openai_like")
    llm = peer.OpenAILike(model="m", api_base=f"{url}/v1", api_key="k", is_chat_model=True)
    llms: Any = importlib.import_module("llama_index.core.llms")
    stream = await llm.astream_chat([llms.ChatMessage(role="user", content="x")])
    return [reply.delta async for reply in stream if reply.delta]


async def litellm(url: str) -> list[str]:
    peer: Any = importlib.import_module("litellm")
    stream = await peer.acompletion(
        model="openai/m", messages=[{"role": "user", "content": "x"}], stream=True, api_key="k", api_base=f"{url}/v1"
    )
    return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]


async def langchain_openai(url: str) -> list[str]:
    peer: Any = importlib.import_module("langchain_openai")
    model = peer.ChatOpenAI(model="m", base_url=f"{url}/v1", api_key="k")
    return [chunk.content async for chunk in model.astream("x") if chunk.content]


async def guidellm(url: str) -> list[str]:
    """Its handler of a stream's lines, fed as its backend feeds it."""
    httpx: Any = importlib.import_module("httpx")
    handlers: Any = importlib.import_module("guidellm.backends.openai.request_handlers")
    handler = handlers.ChatCompletionsRequestHandler()
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}}  # fmt: skip
    async with httpx.AsyncClient() as http, http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.strip() and handler.add_streaming_line(line) is None:
                break
    return list(handler.streaming_texts)


READERS = {
    reader.__name__: reader for reader in (any_llm, guidellm, langchain_openai, litellm, llama_index, pydantic_ai)
}

if __name__ == "__main__":
    texts = asyncio.run(READERS[sys.argv[2]](sys.argv[1]))
    print(json.dumps({"text": "".join(texts), "pieces": len(texts)}))
