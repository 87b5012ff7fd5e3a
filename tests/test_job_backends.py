"""Jobs of each backend over real sockets: what is sent, how states are read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import asyncllm
from asyncllm import (
    APIConnectionError,
    APIError,
    BadRequestError,
    Client,
    ContentFilterError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    ProtocolError,
    RedirectRefusedError,
    ResponseValidationError,
    Retry,
    UnsupportedError,
    Usage,
)
from asyncllm.testing import FaultyServer, Rst, Status
from forms import Field, fields_of
from job_servers import FILM, AiXplainJobs, Dubs, OpenAIJobs, Operations, Service, as_json, serving
from openai_media_server import PNG, WAV

SECRET = "canary prompt of mine"
PNG_64 = "iVBORw0KGgo"


def paths(server: FaultyServer) -> list[tuple[str, str]]:
    return [(seen.method, seen.path) for seen in server.requests]


# -- openai ------------------------------------------------------------------------------------------------------


async def test_openai_makes_a_film() -> None:
    async with serving(OpenAIJobs("in_progress", {"status": "in_progress", "progress": 42}, "completed")) as served:
        server, client = served
        job = await client.submit_video("A lighthouse", seconds=8, size="1280x720", image=PNG)
        progress = [(state.status, state.progress) async for state in job.events()]
        film = await job.result()

    assert job.id == "openai:sora-2:videos/video_1"
    assert progress == [("queued", 0), ("running", 0), ("running", 0.42), ("succeeded", 0)]
    assert (film.data, film.media_type, film.duration_s, film.model) == (FILM, "video/mp4", 8, "sora-2")
    assert (film.usage, film.request_id) == (Usage(video_s=8), "req-9")
    assert paths(server) == [
        ("POST", "/v1/videos"), *[("GET", "/v1/videos/video_1")] * 3, ("GET", "/v1/videos/video_1/content")
    ]  # fmt: skip
    assert await fields_of(server.requests[0]) == [
        Field("model", b"sora-2"), Field("prompt", b"A lighthouse"),
        Field("input_reference", PNG, "image.png", "image/png"), Field("seconds", b"8"), Field("size", b"1280x720"),
    ]  # fmt: skip
    assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer job-secret-key"}


@pytest.mark.parametrize(("ratio", "size"), [("16:9", b"1280x720"), ("9:16", b"720x1280")])
async def test_openai_s_films_have_a_ratio(ratio: str, size: bytes) -> None:
    async with serving(OpenAIJobs("completed")) as (server, client):
        await client.submit_video("A", aspect_ratio=ratio)

    assert Field("size", size) in await fields_of(server.requests[0])


async def test_openai_s_films_take_what_only_it_knows() -> None:
    async with serving(OpenAIJobs("completed")) as (server, client):
        await client.submit_video("A", extra={"characters": [{"id": "char_1"}], "model": "sora-2-pro"})

    fields = await fields_of(server.requests[0])
    assert Field("characters[][id]", b"char_1") in fields
    assert [field.value for field in fields if field.name == "model"] == [b"sora-2-pro"]


async def test_openai_answers_in_the_background() -> None:
    async with serving(OpenAIJobs("queued", "in_progress", "completed"), model="openai:gpt-5") as (server, client):
        job = await client.submit("What is it?", system="Be brief.", max_tokens=50)
        answer = await job.result()

    assert job.id == "openai:gpt-5:responses/resp_1"
    assert (answer.text, answer.backend, answer.model) == ("forty-two", "openai", "gpt-5")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 3)
    sent = server.requests[0]
    assert (sent.path, sent.json()["background"], sent.json()["store"]) == ("/v1/responses", True, True)
    assert sent.json()["max_output_tokens"] == 50
    assert paths(server)[1:] == [("GET", "/v1/responses/resp_1")] * 3


async def test_an_answer_that_was_cut_off_is_one() -> None:
    look = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    async with serving(OpenAIJobs(look), model="openai:gpt-5") as (_, client):
        job = await client.submit("What is it?")
        answer = await job.result()

    assert answer.finish_reason == "length"


async def test_openai_stops_an_answer_and_no_film() -> None:
    async with serving(OpenAIJobs("in_progress"), model="openai:gpt-5") as (server, client):
        job = await client.submit("What is it?")
        state = await job.cancel()
        film = client.job("openai:sora-2:videos/video_1")
        with pytest.raises(UnsupportedError) as caught:
            await film.cancel()

    assert (state.status, caught.value.field) == ("cancelled", "cancel")
    assert paths(server)[1:] == [("POST", "/v1/responses/resp_1/cancel")]


@pytest.mark.parametrize("kind", ["videos", "responses"])
async def test_a_job_of_openai_s_that_failed_says_why(kind: str) -> None:
    look = {"status": "failed", "error": {"code": "moderation_blocked", "message": f"no {SECRET}"}}
    async with serving(OpenAIJobs(look), model="openai:m") as (_, client):
        job: Any = await (client.submit_video(SECRET) if kind == "videos" else client.submit(SECRET))
        with pytest.raises(JobFailedError) as caught:
            await job.result()

    assert caught.value.code == "moderation_blocked"
    assert isinstance(caught.value.__cause__, ContentFilterError)
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("option", ["resolution", "last_image", "references"])
async def test_an_option_that_openai_s_films_lack_is_refused(option: str) -> None:
    given: dict[str, Any] = {"resolution": "720p", "last_image": PNG, "references": [PNG]}
    async with serving(OpenAIJobs("completed")) as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.submit_video("A", **{option: given[option]})

    assert (caught.value.field, server.requests) == (option, [])


async def test_an_option_that_responses_lack_is_refused() -> None:
    async with serving(OpenAIJobs("completed")) as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.submit("A", seed=1)
        with pytest.raises(UnsupportedError) as dubbed:
            await client.submit_dub(WAV, "es")

    assert (caught.value.field, dubbed.value.field, server.requests) == ("seed", "submit_dub", [])


async def test_a_ratio_that_openai_s_films_lack_is_refused() -> None:
    async with serving(OpenAIJobs("completed")) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.submit_video("A", aspect_ratio="1:1")

    assert (caught.value.field, server.requests) == ("aspect_ratio", [])


@pytest.mark.parametrize("service_id", ["videos/../models", "files/f", "videos/a/b", "videos/a?x", "https://evil/"])
async def test_an_id_leads_nowhere_else(service_id: str) -> None:
    async with serving(OpenAIJobs("completed")) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.job(f"openai:m:{service_id}").poll()

    assert (caught.value.field, server.requests) == ("id", [])


@pytest.mark.parametrize(
    ("content", "kind"),
    [([Status(200, {"Content-Type": "video/mp4"}, b"")], ResponseValidationError),
     ([Status(200, {"Content-Type": "text/html"}, b"<html><title>Busy</title></html>")], ProtocolError),
     (as_json({"error": {"message": "gone", "code": "content_policy_violation"}}), ContentFilterError),
     (as_json({"error": {"message": "gone"}}, 404), NotFoundError),
     ([Status(200, {"Content-Type": "video/mp4", "Content-Length": "99"}, None), Rst()], APIConnectionError)],
)  # fmt: skip
async def test_a_film_that_does_not_arrive_is_an_error(content: Any, kind: type[APIError]) -> None:
    class Broken(OpenAIJobs):
        def __call__(self, request: Any) -> Any:
            return content if request.path.endswith("/content") else super().__call__(request)

    async with serving(Broken("completed")) as (_, client):
        job = await client.submit_video("A")
        with pytest.raises(kind):
            await job.result()


async def test_a_film_that_broke_off_is_fetched_again_and_not_made_again() -> None:
    class Broken(OpenAIJobs):
        def __call__(self, request: Any) -> Any:
            broken = request.path.endswith("/content") and not self.looks_broken
            self.looks_broken = self.looks_broken or broken
            cut = [Status(200, {"Content-Type": "video/mp4", "Content-Length": "99"}, None), Rst()]
            return cut if broken else super().__call__(request)

        looks_broken = False

    async with serving(Broken("completed"), retry=Retry()) as (server, client):
        film = await (await client.submit_video("A")).result()

    assert film.data == FILM
    assert [method for method, _ in paths(server)].count("POST") == 1


# -- azure -------------------------------------------------------------------------------------------------------


async def test_azure_makes_films_and_answers_on_its_v1_surface() -> None:
    options = {"api_version": "v1", "deployments": {"sora-2": "films"}}
    async with FaultyServer(OpenAIJobs("completed")) as server:
        async with Client(model="azure:sora-2", base_url=server.url, api_key="k", options=options, env={}) as client:
            film = await (await client.submit_video("A")).result()
            answer = await (await client.submit("A")).result()

    assert film.data == FILM
    assert answer.text == "forty-two"
    assert Field("model", b"films") in await fields_of(server.requests[0])
    assert paths(server) == [
        ("POST", "/openai/v1/videos"), ("GET", "/openai/v1/videos/video_1"),
        ("GET", "/openai/v1/videos/video_1/content"), ("POST", "/openai/v1/responses"),
        ("GET", "/openai/v1/responses/resp_1"),
    ]  # fmt: skip
    assert server.requests[3].json()["model"] == "films"


@pytest.mark.parametrize("call", ["submit", "submit_video"])
async def test_azure_s_dated_surface_has_no_such_jobs(call: str) -> None:
    async with FaultyServer(as_json({})) as server:
        async with Client(model="azure:m", base_url=server.url, api_key="k", env={}) as client:
            with pytest.raises(UnsupportedError, match="api_version") as caught:
                await getattr(client, call)("A")

    assert (caught.value.field, server.requests) == (call, [])


async def test_azure_answers_in_the_background_on_a_date_that_has_responses() -> None:
    async with FaultyServer(OpenAIJobs("completed")) as server:
        options = {"api_version": "2025-04-01-preview"}
        async with Client(model="azure:m", base_url=server.url, api_key="k", options=options, env={}) as client:
            await (await client.submit("A")).result()

    assert paths(server) == [
        ("POST", "/openai/responses?api-version=2025-04-01-preview"),
        ("GET", "/openai/responses/resp_1?api-version=2025-04-01-preview"),
    ]


# -- gemini ------------------------------------------------------------------------------------------------------


async def test_gemini_makes_a_film() -> None:
    async with serving(Operations(False, False, True)) as (server, client):
        job = await client.submit_video("A lighthouse", seconds=8, aspect_ratio="16:9", resolution="720p", image=PNG,
                                        last_image=PNG, extra={"parameters": {"negativePrompt": "rain"}})  # fmt: skip
        statuses = [status async for status in job]
        film = await job.result()

    assert job.id == "gemini-native:veo-3.1:models/veo-3.1/operations/op_1"
    assert statuses == ["running", "succeeded"]
    assert (film.data, film.media_type, film.model, film.duration_s) == (FILM, "video/mp4", "veo-3.1", 8)
    assert film.usage == Usage(video_s=8)
    body = server.requests[0].json()
    assert body["parameters"] == {
        "durationSeconds": 8, "aspectRatio": "16:9", "resolution": "720p", "negativePrompt": "rain"
    }  # fmt: skip
    (instance,) = body["instances"]
    assert instance["prompt"] == "A lighthouse"
    assert {name: instance[name]["mimeType"] for name in ("image", "lastFrame")} == {
        "image": "image/png", "lastFrame": "image/png"
    }  # fmt: skip
    assert instance["image"]["bytesBase64Encoded"].startswith(PNG_64)
    assert paths(server) == [
        ("POST", "/v1beta/models/veo-3.1:predictLongRunning"),
        *[("GET", "/v1beta/models/veo-3.1/operations/op_1")] * 3,
        ("GET", "/v1beta/files/f_1:download?alt=media"),
        ("GET", "/download/v1beta/files/f_1:download?alt=media"),
    ]
    assert {seen.headers["x-goog-api-key"] for seen in server.requests} == {"job-secret-key"}


async def test_gemini_s_films_go_by_references() -> None:
    async with serving(Operations(True)) as (server, client):
        await client.submit_video("A", references=[PNG, PNG])

    (instance,) = server.requests[0].json()["instances"]
    assert [one["referenceType"] for one in instance["referenceImages"]] == ["asset", "asset"]


@pytest.mark.parametrize(
    ("field", "options"),
    [("references", {"references": [PNG] * 4}), ("references", {"references": [PNG], "image": PNG}),
     ("references", {"references": [PNG], "last_image": PNG}), ("image", {"last_image": PNG}),
     ("seconds", {"seconds": 6.5}), ("extra", {"extra": {"parameters": {"sampleCount": 2}}}),
     ("extra", {"extra": {"x": object()}})],
)  # fmt: skip
async def test_a_film_that_gemini_cannot_make_is_refused(field: str, options: dict[str, Any]) -> None:
    async with serving(Operations(True)) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.submit_video("A", **options)

    assert (caught.value.field, server.requests) == (field, [])


async def test_gemini_s_films_have_no_size_and_cannot_be_stopped() -> None:
    async with serving(Operations(False)) as (_, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.submit_video("A", size="1280x720")
        job = await client.submit_video("A")
        with pytest.raises(UnsupportedError) as stopped:
            await job.cancel()

    assert (caught.value.field, stopped.value.field) == ("size", "cancel")


@pytest.mark.parametrize(
    ("look", "kind", "code"),
    [({"error": {"code": 3, "message": f"no {SECRET}", "status": "INVALID_ARGUMENT"}}, APIError, "3"),
     ({"error": {"code": 400, "message": "no"}}, BadRequestError, "400"),
     ({"response": {"generateVideoResponse": {"raiMediaFilteredCount": 1}}}, ContentFilterError, "rai_media_filtered"),
     ({"response": {"generateVideoResponse": {}}}, ResponseValidationError, "failed"),
     ({}, ResponseValidationError, "failed")],
)  # fmt: skip
async def test_an_operation_without_a_film_failed(look: Any, kind: type[APIError], code: str) -> None:
    async with serving(Operations(look)) as (_, client):
        job = await client.submit_video(SECRET)
        with pytest.raises(JobFailedError) as caught:
            await job.result()

    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.code == code
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


async def test_the_key_is_taken_to_no_host_that_was_not_named() -> None:
    uri = {"response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": "https://evil.example/f"}}]}}}
    async with serving(Operations(uri)) as (server, client):
        job = await client.submit_video("A")
        with pytest.raises(RedirectRefusedError, match="trusted_hosts"):
            await job.result()

    assert len(server.requests) == 2


async def test_a_film_is_fetched_from_a_host_that_was_named() -> None:
    async with FaultyServer([Status(200, {"Content-Type": "video/mp4"}, FILM)]) as other:
        uri = {"response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": f"{other.url}/f"}}]}}}
        host = other.url.removeprefix("http://")
        async with serving(Operations(uri), options={"trusted_hosts": [host]}) as (_, client):
            film = await (await client.submit_video("A")).result()

    assert film.data == FILM


async def test_an_operation_without_a_name_may_be_billed() -> None:
    class Nameless(Operations):
        def __call__(self, request: Any) -> Any:
            return as_json({"done": False})

    async with serving(Nameless(True)) as (_, client):
        with pytest.raises(ResponseValidationError) as caught:
            await client.submit_video("A")

    assert caught.value.maybe_billed


@pytest.mark.parametrize("service_id", ["models/../operations/x", "operations/x", "models/m/operations/x/y"])
async def test_an_id_of_gemini_s_leads_nowhere_else(service_id: str) -> None:
    async with serving(Operations(True)) as (server, client):
        with pytest.raises(InvalidRequestError):
            await client.job(f"gemini-native:m:{service_id}").poll()

    assert server.requests == []


# -- elevenlabs --------------------------------------------------------------------------------------------------


async def test_elevenlabs_dubs_a_file() -> None:
    async with serving(Dubs("dubbing", "dubbed")) as (server, client):
        job = await client.submit_dub(WAV, "es", source_language="en", speakers=2, extra={"watermark": True})
        dub = await job.result()

    assert job.id == "elevenlabs:dubbing:dub_1"
    assert (dub.data, dub.media_type, dub.language, dub.duration_s) == (FILM, "video/mp4", "es", 127.5)
    assert (dub.usage, dub.request_id) == (Usage(audio_s=127.5), "req-9")
    assert paths(server) == [
        ("POST", "/v1/dubbing"), *[("GET", "/v1/dubbing/dub_1")] * 2, ("GET", "/v1/dubbing/dub_1/audio/es")
    ]  # fmt: skip
    assert await fields_of(server.requests[0]) == [
        Field("file", WAV, "media.wav", "audio/wav"), Field("source_lang", b"en"), Field("target_lang", b"es"),
        Field("num_speakers", b"2"), Field("watermark", b"true"),
    ]  # fmt: skip
    assert {seen.headers["xi-api-key"] for seen in server.requests} == {"job-secret-key"}


async def test_elevenlabs_dubs_what_it_finds_at_an_address() -> None:
    async with serving(Dubs({"status": "dubbed", "media_metadata": None})) as (server, client):
        dub = await client.dub("https://films.example/one.mp4", "es", duration_s=60)

    assert Field("source_url", b"https://films.example/one.mp4") in await fields_of(server.requests[0])
    assert (dub.duration_s, dub.usage.audio_s) == (60, 60)


async def test_a_dub_that_failed_says_why() -> None:
    async with serving(Dubs({"status": "failed", "error": "no speech was found"})) as (_, client):
        job = await client.submit_dub(WAV, "es")
        with pytest.raises(JobFailedError, match="no speech was found") as caught:
            await job.result()

    assert isinstance(caught.value.__cause__, APIError)


async def test_a_status_that_nobody_knows_is_no_end() -> None:
    async with serving(Dubs("preparing", "dubbed")) as (_, client):
        job = await client.submit_dub(WAV, "es")
        state = await job.poll()

    assert (state.status, state.status_raw) == ("running", "preparing")


async def test_a_dub_without_a_language_is_none() -> None:
    async with serving(Dubs({"status": "dubbed", "target_languages": []})) as (_, client):
        with pytest.raises(ResponseValidationError):
            await client.dub(WAV, "es")


async def test_elevenlabs_stops_no_dub_and_makes_no_films() -> None:
    async with serving(Dubs("dubbing")) as (server, client):
        job = await client.submit_dub(WAV, "es")
        with pytest.raises(UnsupportedError) as caught:
            await job.cancel()
        with pytest.raises(UnsupportedError) as film:
            await client.submit_video("A")
        with pytest.raises(InvalidRequestError):
            await client.job("elevenlabs::../voices").poll()

    assert (caught.value.field, film.value.field, len(server.requests)) == ("cancel", "submit_video", 1)


# -- aixplain ----------------------------------------------------------------------------------------------------


async def test_aixplain_runs_a_job() -> None:
    async with serving(AiXplainJobs(None, "done at last")) as (server, client):
        job = await client.submit("Hello", max_tokens=9)
        answer = await job.result()

    assert (answer.text, answer.usage.output_tokens, answer.raw["usedCredits"]) == ("done at last", 2, 0.0002)
    assert (answer.backend, answer.model) == ("aixplain", client.resolve_model().partition(":")[2])
    sent = server.requests[0]
    assert sent.path.startswith("/api/v1/execute/")
    assert sent.json() == {"data": "Hello", "max_tokens": 9}
    assert paths(server)[1:] == [("GET", "/api/v1/data/run-1")] * 2
    assert {seen.headers["x-api-key"] for seen in server.requests} == {"job-secret-key"}


async def test_a_run_that_is_done_at_once_has_its_result() -> None:
    class Prompt(AiXplainJobs):
        def __call__(self, request: Any) -> Any:
            return as_json({"status": "SUCCESS", "completed": True, "data": "now"})

    async with serving(Prompt(None)) as (server, client):
        job = await client.submit("Hello")
        answer = await job.result()

    assert (job.status, answer.text, len(server.requests)) == ("succeeded", "now", 1)


async def test_a_run_that_fails_at_once_is_an_error() -> None:
    class Failing(AiXplainJobs):
        def __call__(self, request: Any) -> Any:
            return as_json({"status": "FAILED", "completed": True, "error_message": "no such voice"})

    async with serving(Failing(None), retry=Retry()) as (server, client):
        with pytest.raises(asyncllm.APIStatusError, match="no such voice") as caught:
            await client.submit("Hello")

    assert (caught.value.maybe_billed, len(server.requests)) == (True, 1)


async def test_a_run_is_refused_by_its_category() -> None:
    class Refusing(AiXplainJobs):
        def __call__(self, request: Any) -> Any:
            return as_json({"error": "so it is"}, 475)

    async with serving(Refusing(None)) as (_, client):
        with pytest.raises(asyncllm.QuotaExceededError) as caught:
            await client.submit("Hello")

    assert (caught.value.code, caught.value.maybe_billed) == ("billing", False)


async def test_the_key_is_not_taken_to_a_job_s_foreign_host() -> None:
    async with serving(AiXplainJobs("x")) as (server, client):
        for host in ("https://evil.example/run", "http://127.0.0.1:1/run", "ftp://x/run", "run-1"):
            with pytest.raises(RedirectRefusedError):
                await client.job(f"aixplain::{host}").poll()

    assert server.requests == []


async def test_aixplain_stops_no_run() -> None:
    async with serving(AiXplainJobs(None)) as (_, client):
        job = await client.submit("Hello")
        with pytest.raises(UnsupportedError) as caught:
            await job.cancel()

    assert caught.value.field == "cancel"


# -- all of them -------------------------------------------------------------------------------------------------

SERVICES: list[tuple[type[Service], str, tuple[Any, ...], tuple[Any, ...]]] = [
    (OpenAIJobs, "submit_video", (SECRET,), ("in_progress", "completed")),
    (Operations, "submit_video", (SECRET,), (False, True)),
    (Dubs, "submit_dub", (WAV, "es"), ("dubbing", "dubbed")),
    (AiXplainJobs, "submit", (SECRET,), (None, "done")),
]
NAMES = [case[0].__name__ for case in SERVICES]


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
async def test_a_job_is_found_again_by_another_client(kind: Any, call: str, given: Any, looks: Any) -> None:
    async with serving(kind(*looks)) as (server, client):
        job = await getattr(client, call)(*given)
        key = {"base_url": server.url + kind.path, "api_key": kind.key, "model": kind.model, "env": {}}
        async with Client(**key) as other:
            again = other.job(job.id)
            state = await again.poll()
            made = await again.result(interval=0.2)

    assert state.status == "running"
    assert made is not None
    assert again.id == job.id


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
@pytest.mark.parametrize(
    "failure", [as_json({"error": "busy"}, 502), [Rst()], as_json({}, 429)], ids=["502", "rst", "429"]
)
async def test_one_failure_is_let_pass(kind: Any, call: str, given: Any, looks: Any, failure: Any) -> None:
    async with serving(kind(looks[0], failure, looks[1])) as (_, client):
        job = await getattr(client, call)(*given)

        assert (await job.wait()).status == "succeeded"


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_ends_the_questions(kind: Any, call: str, given: Any, looks: Any, status: int) -> None:
    async with serving(kind(looks[0], as_json({"error": {"message": SECRET}}, status))) as (server, client):
        job = await getattr(client, call)(*given)
        with pytest.raises(asyncllm.APIStatusError) as caught:
            await job.wait()

    assert caught.value.status == status
    assert len(server.requests) == 3
    assert call == "submit_dub" or SECRET not in str(caught.value)


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"[1]", b'{"x": {'])
async def test_a_malformed_state_is_raised_at_once(kind: Any, call: str, given: Any, looks: Any, body: bytes) -> None:
    state = [Status(200, {"Content-Type": "application/json"}, body)]
    async with serving(kind(looks[0], state)) as (server, client):
        job = await getattr(client, call)(*given)
        with pytest.raises(APIError):
            await job.wait()

    assert len(server.requests) == 3


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
@pytest.mark.parametrize("failure", [as_json({"error": "x"}, 500), as_json({"error": "x"}, 504), [Rst()]],
                         ids=["500", "504", "rst"])  # fmt: skip
async def test_what_may_be_billed_is_submitted_once(kind: Any, call: str, given: Any, looks: Any, failure: Any) -> None:
    del looks
    async with serving(failing(kind, failure), retry=Retry(attempts=4)) as (server, client):
        with pytest.raises(APIError) as caught:
            await getattr(client, call)(*given)

    assert (caught.value.maybe_billed, len(server.requests)) == (True, 1)


@pytest.mark.parametrize(("kind", "call", "given", "looks"), SERVICES, ids=NAMES)
@pytest.mark.parametrize("status", [429, 503])
async def test_what_was_refused_is_submitted_again(kind: Any, call: str, given: Any, looks: Any, status: int) -> None:
    async with serving(failing(kind, as_json({"error": "busy"}, status), looks), retry=Retry()) as served:
        server, client = served
        await getattr(client, call)(*given)

    assert len(server.requests) == 2


def failing(kind: Any, failure: Any, looks: Any = None) -> Service:
    """A service whose first call, or whose every call, fails."""

    class Failing(kind):  # type: ignore[misc]
        failed = False

        def __call__(self, request: Any) -> Any:
            if looks is not None and self.failed:
                return super().__call__(request)
            self.failed = True
            return failure

    made: Service = Failing(*(looks or ()))
    return made
