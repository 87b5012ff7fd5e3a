"""The gemini-native backend over real sockets, and Google's own SDK against the same server."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from google import genai
from google.genai import types as google

import asyncllm
from asyncllm import (
    Client,
    ConfigError,
    ContentFilterError,
    InvalidRequestError,
    ModelInfo,
    ResponseValidationError,
    UnsupportedError,
    Usage,
)
from asyncllm.media import Image, ImageFrame
from asyncllm.testing import FaultyServer
from gemini_server import PICTURE, answer, serving
from openai_media_server import PNG

SECRET = "canary prompt of mine"


async def test_a_picture_is_made() -> None:
    async with serving() as (server, client):
        made = await client.generate_image("A cat", aspect_ratio="16:9", quality="high")

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/models/gemini-3-image:generateContent")
    assert seen.headers["x-goog-api-key"] == "g-secret"
    assert seen.json() == {
        "contents": [{"role": "user", "parts": [{"text": "A cat"}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "16:9", "imageSize": "4K"}
        },
    }  # fmt: skip
    assert list(made) == [Image(data=PNG, media_type="image/png")]
    assert made.usage == Usage(input_tokens=9, output_tokens=1300, reasoning_tokens=10, images=1)
    assert (made.model, made.request_id) == ("gemini-3-image", "r-1")


async def test_pictures_are_changed() -> None:
    async with serving() as (server, client):
        await client.edit_image([PNG, PNG], "A dog", extra={"generationConfig": {"temperature": 0.5}})

    body = server.requests[0].json()
    assert body["contents"][0]["parts"] == [PICTURE, PICTURE, {"text": "A dog"}]
    assert body["generationConfig"] == {"responseModalities": ["IMAGE"], "temperature": 0.5}


@pytest.mark.parametrize(("quality", "size"), [("low", "1K"), ("medium", "2K"), ("high", "4K"), ("2K", "2K")])
async def test_a_quality_is_a_size(quality: str, size: str) -> None:
    async with serving() as (server, client):
        await client.generate_image("A cat", quality=quality)

    assert server.requests[0].json()["generationConfig"]["imageConfig"] == {"imageSize": size}


async def test_a_picture_s_own_settings_go_beside_those_of_the_options() -> None:
    extra = {"generationConfig": {"imageConfig": {"personGeneration": "ALLOW_ADULT"}}}
    async with serving() as (server, client):
        await client.generate_image("A cat", quality="high", extra=extra)

    assert server.requests[0].json()["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"imageSize": "4K", "personGeneration": "ALLOW_ADULT"},
    }
    assert extra == {"generationConfig": {"imageConfig": {"personGeneration": "ALLOW_ADULT"}}}


async def test_a_stream_has_the_final_frame_alone() -> None:
    async with serving() as (_, client):
        async with client.stream_image("A cat") as stream:
            frames = [frame async for frame in stream]

    assert frames == [ImageFrame(image=Image(data=PNG, media_type="image/png"), is_final=True)]
    assert stream.usage.images == 1


async def test_models_are_listed_by_the_names_that_calls_take() -> None:
    listed = {"models": [{"name": "models/gemini-3-image", "inputTokenLimit": 65536}]}
    async with serving(answer(listed)) as (server, client):
        assert await client.list_models() == [ModelInfo(id="gemini-3-image", context_tokens=65536)]
        assert await client.is_alive()

    assert server.requests[0].path == "/v1/models?pageSize=1000"


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"n": 2}, UnsupportedError, "n"),
        ({"size": "1024x1024"}, UnsupportedError, "size"),
        ({"background": "opaque"}, UnsupportedError, "background"),
        ({"quality": "best"}, InvalidRequestError, "quality"),
        ({"extra": {"x": object()}}, InvalidRequestError, "extra"),
    ],
)
async def test_what_cannot_be_is_named_before_anything_is_sent(
    options: dict[str, Any], error: type[asyncllm.AsyncLLMError], field: str
) -> None:
    async with serving() as (server, client):
        with pytest.raises(error) as caught:
            await client.generate_image("A cat", **options)

    assert caught.value.field == field
    assert not server.requests


async def test_there_is_no_chat_and_no_mask() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError, match="chat"):
            await client.chat("Hello")
        with pytest.raises(UnsupportedError, match="mask"):
            await client.edit_image(PNG, "A dog", mask=PNG)

    assert not server.requests


async def test_another_version_of_the_api_is_an_option() -> None:
    options = {"api_version": "v1beta"}
    async with FaultyServer(answer()) as server:
        async with Client(model="gemini-native:m", base_url=server.url, api_key="k", options=options) as client:
            await client.generate_image("A cat")
        async with Client(model="gemini-native:m", options={"api_version": "v1/../x"}, api_key="k") as client:
            with pytest.raises(ConfigError, match="api_version"):
                await client.generate_image("A cat")

    assert [seen.path for seen in server.requests] == ["/v1beta/models/m:generateContent"]


def test_its_own_address_needs_a_key() -> None:
    with (
        asyncllm.sync.Client(model="gemini-native:m", env={}) as client,
        pytest.raises(ConfigError, match="GEMINI_API_KEY"),
    ):
        client.generate_image("A cat")


@pytest.mark.parametrize(
    "document",
    [
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"candidates": [{"finishReason": "IMAGE_SAFETY"}]},
        {"candidates": [{"finishReason": "SAFETY", "content": {"role": "model"}}]},
    ],
)
async def test_a_picture_that_a_filter_keeps_back_is_the_filter_s_error(document: object) -> None:
    async with serving(answer(document)) as (_, client):
        with pytest.raises(ContentFilterError, match="content filter"):
            await client.generate_image("A cat")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"candidates": []},
        {"candidates": [{"finishReason": "NO_IMAGE"}]},
        {"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}}]},
        b"[]",
        b"",
        b"<html>",
    ],
)
async def test_a_reply_without_a_picture_is_an_error(document: object) -> None:
    async with serving(answer(document)) as (_, client):
        with pytest.raises(ResponseValidationError):
            await client.generate_image("A cat")


@pytest.mark.parametrize(
    ("status", "word", "error"),
    [
        (400, "INVALID_ARGUMENT", asyncllm.BadRequestError),
        (403, "PERMISSION_DENIED", asyncllm.PermissionDeniedError),
        (404, "NOT_FOUND", asyncllm.NotFoundError),
        (429, "RESOURCE_EXHAUSTED", asyncllm.RateLimitError),
        (503, "UNAVAILABLE", asyncllm.OverloadedError),
    ],
)
async def test_a_refusal_is_typed_and_repeats_nothing(status: int, word: str, error: type[asyncllm.APIError]) -> None:
    body = {"error": {"code": status, "message": f"g-secret may not {SECRET}", "status": word}}
    async with serving(answer(body, status)) as (_, client):
        with pytest.raises(error, match="may not …") as caught:
            await client.generate_image(SECRET)

    assert caught.value.status == status
    assert "g-secret" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # the SDK's own way of using aiohttp
async def test_google_s_own_sdk_asks_the_same_and_reads_the_same() -> None:
    async with serving() as (server, client):
        sdk = genai.Client(api_key="g-secret", http_options=google.HttpOptions(base_url=server.url))
        theirs = await sdk.aio.models.generate_content(
            model="gemini-3-image",
            contents=google.Content(
                role="user",
                parts=[google.Part.from_bytes(data=PNG, mime_type="image/png"), google.Part.from_text(text="A dog")],
            ),
            config=google.GenerateContentConfig(
                response_modalities=["IMAGE"],
                image_config=google.ImageConfig(aspect_ratio="1:1", image_size="2K"),
            ),
        )
        ours = await client.edit_image(PNG, "A dog", aspect_ratio="1:1", quality="medium")
        await sdk.aio.aclose()
        sdk.close()

    sent, written = server.requests
    assert (written.method, written.path) == (sent.method, sent.path)
    assert written.headers["x-goog-api-key"] == sent.headers["x-goog-api-key"]
    assert plain(written.json()) == plain(sent.json())
    assert ours[0].data == theirs.parts[-1].inline_data.data
    assert ours.usage.input_tokens == theirs.usage_metadata.prompt_token_count


def plain(document: Any) -> Any:
    """`document` with its bytes decoded and one name for each field: Google's JSON takes two of either."""
    for part in document["contents"][0]["parts"]:
        if (blob := part.get("inlineData")) is not None:
            blob["mimeType"] = blob.pop("mime_type", blob.get("mimeType"))
            blob["data"] = base64.urlsafe_b64decode(blob["data"].replace("+", "-").replace("/", "_"))
    return document
