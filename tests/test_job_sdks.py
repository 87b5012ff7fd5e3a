"""Vendors' own SDKs and this client, against the same servers: the same jobs are submitted, and read the same."""

from __future__ import annotations

import warnings
from typing import Any

import httpx
import pytest
from elevenlabs.client import AsyncElevenLabs
from openai import AsyncOpenAI

import vendor_sdk
from aixplain_server import MODEL
from asyncllm.testing import FaultyServer
from asyncllm.testing.seen import SeenRequest
from forms import Field, fields_of
from job_servers import FILM, AiXplainJobs, Dubs, OpenAIJobs, Operations, serving
from openai_media_server import PNG, WAV


async def form(seen: SeenRequest) -> list[Field]:
    """Fields in order of their names, without the nulls that an SDK writes for options that nobody gave."""
    return sorted(field for field in await fields_of(seen) if field.value != b"null")


async def test_openai_s_films() -> None:
    async with serving(OpenAIJobs({"status": "in_progress", "progress": 42}, "completed")) as (server, client):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the service is to end, and with it the calls
            async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="job-secret-key", max_retries=0) as sdk:
                made = await sdk.videos.create(
                    prompt="A lighthouse", model="sora-2", seconds="8", size="1280x720",
                    input_reference=("image.png", PNG, "image/png"),
                )  # fmt: skip
                seen = await sdk.videos.retrieve(made.id)
                data = await (await sdk.videos.download_content(made.id)).aread()
        job = await client.submit_video("A lighthouse", seconds=8, size="1280x720", image=PNG)
        state = await job.poll()
        film = await job.result()

    theirs, ours = server.requests[:3], server.requests[3:]
    assert [(one.method, one.path) for one in ours] == [(one.method, one.path) for one in theirs]
    assert await form(ours[0]) == await form(theirs[0])
    assert {one.headers["authorization"] for one in server.requests} == {"Bearer job-secret-key"}
    assert (job.state.id, seen.status, state.status_raw) == (f"videos/{made.id}", "in_progress", "completed")
    assert film.data == data == FILM


async def test_openai_s_answers_in_the_background() -> None:
    async with serving(OpenAIJobs("in_progress", "completed"), model="openai:gpt-5") as (server, client):
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="job-secret-key", max_retries=0) as sdk:
            made = await sdk.responses.create(
                model="gpt-5", input=[{"role": "user", "content": "What is it?"}], background=True, store=True
            )
            waiting = await sdk.responses.retrieve(made.id)
            done = await sdk.responses.retrieve(made.id)
            stopped = await sdk.responses.cancel(made.id)
    async with serving(OpenAIJobs("in_progress", "completed"), model="openai:gpt-5") as (again, client):
        job = await client.submit("What is it?")
        states = [await job.poll(), await job.poll()]
        answer = await job.result()
        other = await client.job(job.id).cancel()

    assert [(one.method, one.path) for one in again.requests] == [(one.method, one.path) for one in server.requests]
    assert again.requests[0].json() == server.requests[0].json()
    assert [state.status_raw for state in states] == [waiting.status, done.status]
    assert (answer.text, other.status) == (done.output_text, stopped.status)


async def test_elevenlabs_s_dubs() -> None:
    async with serving(Dubs("dubbing", "dubbed")) as (server, client), httpx.AsyncClient() as http:
        sdk = AsyncElevenLabs(base_url=server.url, api_key="job-secret-key", httpx_client=http)
        made = await sdk.dubbing.create(
            file=("media.wav", WAV, "audio/wav"), source_lang="en", target_lang="es", num_speakers=2
        )
        seen = await sdk.dubbing.get(made.dubbing_id)
        data = b"".join([piece async for piece in sdk.dubbing.audio.get(made.dubbing_id, "es")])
        job = await client.submit_dub(WAV, "es", source_language="en", speakers=2)
        state = await job.poll()
        dub = await job.result()

    theirs, ours = server.requests[:3], server.requests[3:]
    assert [(one.method, one.path) for one in ours] == [(one.method, one.path) for one in theirs]
    assert await form(ours[0]) == await form(theirs[0])
    assert {one.headers["xi-api-key"] for one in server.requests} == {"job-secret-key"}
    assert (seen.status, state.status, job.state.id) == ("dubbing", "succeeded", made.dubbing_id)
    assert (dub.data, dub.language) == (data, "es")


GOOGLE = """
from google import genai
from google.genai import types
import base64
client = genai.Client(api_key="job-secret-key", http_options=types.HttpOptions(base_url=given["url"]))
picture = types.Image(image_bytes=base64.b64decode(given["picture"]), mime_type="image/png")
operation = client.models.generate_videos(
    model="veo-3.1", prompt="A lighthouse", image=picture,
    config=types.GenerateVideosConfig(duration_seconds=8, aspect_ratio="16:9", resolution="720p",
        negative_prompt="rain", last_frame=picture))
name = operation.name
operation = client.operations.get(operation)
film = operation.response.generated_videos[0].video
print(json.dumps([name, operation.done, len(client.files.download(file=film))]))
"""
AIXPLAIN = """
from aixplain.modules.model.llm_model import LLM
from aixplain.enums import Function
model = LLM(id=given["model"], name="m", api_key="job-secret-key", function=Function.TEXT_GENERATION)
begun = model.run_async("Hello", temperature=0.2)
states = [model.poll(begun.url) for _ in range(2)]
done = model.sync_poll(begun.url, wait_time=0.2)
print(json.dumps([begun.url, begun.completed, begun.data, [state.completed for state in states], done.data]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_google_s_films() -> None:
    import base64

    python = vendor_sdk.environment("google-genai", "google-genai==1.56.0")
    async with serving(Operations(True)) as (server, client):
        given = {"url": server.url, "picture": base64.b64encode(PNG).decode()}
        name, done, size = await vendor_sdk.run(python, GOOGLE, given, {})
        theirs = list(server.requests)
        server.requests.clear()
        job = await client.submit_video("A lighthouse", seconds=8, aspect_ratio="16:9", resolution="720p", image=PNG,
                                        last_image=PNG, extra={"parameters": {"negativePrompt": "rain"}})  # fmt: skip
        film = await job.result()

    assert (job.state.id, job.is_over, len(film.data)) == (name, done, size)
    assert server.requests[0].json() == theirs[0].json()
    # Where a film is, its client works out for Google's own host alone.
    assert [(one.method, one.path) for one in server.requests[:2]] == [(one.method, one.path) for one in theirs[:2]]
    assert {one.headers["x-goog-api-key"] for one in theirs} == {"job-secret-key"}


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_aixplain_s_runs() -> None:
    python = vendor_sdk.environment("aixplain", "aixplain==0.2.48")
    async with FaultyServer(AiXplainJobs(None, "the answer")) as server:
        env = {
            "TEAM_API_KEY": "job-secret-key",
            "BACKEND_URL": server.url,
            "MODELS_RUN_URL": f"{server.url}/api/v1/execute",
            "AIXPLAIN_ALLOW_INSECURE_URLS": "1",
            "AIXPLAIN_SUPPRESS_V1_DEPRECATION": "1",
        }
        url, completed, data, states, said = await vendor_sdk.run(python, AIXPLAIN, {"model": MODEL}, env)
        theirs = _runs(server)
    async with serving(AiXplainJobs(None, "the answer")) as (again, client):
        job = await client.submit("Hello", temperature=0.2)
        first = job.is_over, job.state.result
        seen = [(await job.poll()).is_final for _ in range(2)]
        answer = await job.result()

    assert (completed, data, states, said) == (*(first[0], ""), seen, answer.text)
    assert _runs(again)[0] == theirs[0]
    assert job.state.id.removeprefix(again.url) == url.removeprefix(server.url)


def _runs(server: FaultyServer) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What was submitted, without the nulls and the default that the vendor's client writes out."""
    return [
        (seen.method, seen.path, seen.headers["x-api-key"], {
            name: value
            for name, value in seen.json().items()
            if value is not None and (name, value) != ("max_tokens", 128)
        })
        for seen in server.requests
        if seen.method == "POST"
    ]  # fmt: skip
