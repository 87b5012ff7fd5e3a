"""`POST /v1/moderations`, and `POST /v1/rerank` as vLLM, Jina and Cohere have it.

Sources: https://platform.openai.com/docs/api-reference/moderations, https://docs.vllm.ai (the re-rank API).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from msgspec import Meta, Struct

from asyncllm.dialect.served import read_document
from asyncllm.errors import InvalidRequestError
from asyncllm.estimate import estimated_texts
from asyncllm.media import Moderation, Ranking
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.bounds import Filled, words
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.wire import check_count, given, passed, read_fields, said_as
from asyncllm.server.replies import send_json
from asyncllm.server.settings import ServerSettings
from asyncllm.types import ImagePart, TextPart

__all__ = ["Moderations", "Rerank"]


class _Url(Struct):
    url: str


class _Part(Struct):
    type: Annotated[str, words("text", "image_url")]
    text: Filled | None = None
    image_url: _Url | None = None


class _Moderation(Struct):
    input: Filled | Annotated[list[Filled | _Part], Meta(min_length=1)]
    model: str | None = None


class Moderations(Endpoint):
    """Whether content is harmful."""

    described = Described(
        body=_Moderation, reply=objects.Judged, limits={"input": ("maxItems", "max_texts")}, absent="model"
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Moderation)
        content = _content(asked.input, settings)
        name, model, client = self.find(incoming, asked.model or "")
        extra = given(extra=passed(document, _Moderation, settings))
        texts = [one.text if isinstance(one, TextPart) else one for one in content if not isinstance(one, ImagePart)]
        async with self.admit(incoming, name, estimated_texts(texts)) as ticket:
            with said_as(name, {"content": "input"}):
                async with Watched(incoming.receive):
                    found = await client.moderate(content, model=model, **extra)
            ticket.count(found)
        await send_json(incoming.send, {"id": f"modr-{incoming.id}", "model": name, "results": _verdicts(found)})


def _content(input_: str | list[str | _Part], settings: ServerSettings) -> Sequence[str | TextPart | ImagePart]:
    if isinstance(input_, str):
        return [input_]
    check_count(input_, "input", settings)
    return [_part(one, f"input[{at}]") for at, one in enumerate(input_)]


def _part(part: str | _Part, place: str) -> str | TextPart | ImagePart:
    if isinstance(part, str):
        return part
    if part.type == "text" and part.text is not None:
        return TextPart(part.text)
    if part.type == "image_url" and part.image_url is not None:
        if not part.image_url.url.startswith("data:"):
            raise InvalidRequestError(f"{place}: send the picture as a data: URL", field=place)
        return ImagePart(url=part.image_url.url)
    raise InvalidRequestError(f"{place} is text with its text, or image_url with its image_url", field=place)


def _verdicts(found: Moderation) -> list[dict[str, Any]]:
    raw = found.raw
    told: object = cast("dict[str, Any]", raw).get("results") if isinstance(raw, dict) else None
    results = cast("list[Any]", told) if isinstance(told, list) else []
    return [
        {
            "flagged": verdict.flagged,
            "categories": verdict.categories,
            "category_scores": verdict.scores,
            "category_applied_input_types": _applied(results[at] if at < len(results) else None)
            or {name: ["text"] for name in verdict.categories},
        }
        for at, verdict in enumerate(found)
    ]


def _applied(result: object) -> Mapping[str, Any] | None:
    """Which kinds of input each category was looked for in, where the service says so."""
    told: object = cast("dict[str, Any]", result).get("category_applied_input_types") if isinstance(result, dict) else 0
    return cast("dict[str, Any]", told) if isinstance(told, dict) else None


class _Document(Struct):
    text: Filled


class _Rerank(Struct):
    query: Filled
    documents: Annotated[list[Filled | _Document], Meta(min_length=1)]
    model: str | None = None
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    """They are returned unless it is false."""


class Rerank(Endpoint):
    """Documents in the order in which they answer a query."""

    described = Described(
        body=_Rerank, reply=objects.Ranked, limits={"documents": ("maxItems", "max_texts")}, absent="model"
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Rerank)
        check_count(asked.documents, "documents", settings)
        texts = [one if isinstance(one, str) else one.text for one in asked.documents]
        name, model, client = self.find(incoming, asked.model or "")
        options = given(top_n=asked.top_n, extra=passed(document, _Rerank, settings))
        async with self.admit(incoming, name, estimated_texts([asked.query, *texts])) as ticket:
            with said_as(name):
                async with Watched(incoming.receive):
                    found = await client.rerank(asked.query, texts, model=model, **options)
            ticket.count(found)
        reply = {"id": f"rerank-{incoming.id}", "model": name, "results": _ranks(found, texts, asked)}
        await send_json(incoming.send, {**reply, **_usage(found)})


def _ranks(found: Ranking, texts: Sequence[str], asked: _Rerank) -> list[dict[str, Any]]:
    return [
        {
            "index": rank.index,
            "relevance_score": rank.score,
            **({"document": {"text": texts[rank.index]}} if asked.return_documents is not False else {}),
        }
        for rank in found
    ]


def _usage(found: Ranking) -> dict[str, Any]:
    tokens = found.usage.input_tokens
    return {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
