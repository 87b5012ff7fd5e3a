"""The bedrock backend over real sockets: addresses, signatures and keys, Amazon's frames, and its errors."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import crc32
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from struct import pack
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from anthropic_server import (
    FRAMED,
    MODEL,
    chunk,
    event,
    exception,
    frame,
    framed,
    message,
    repeat,
    start,
    stop,
    streamed,
    text,
    whole,
)
from asyncllm import APIError, Client, ConfigError, InvalidRequestError, Message, StreamInterrupted
from asyncllm.backend import Config, Context, HttpCall, Secret
from asyncllm.clock import LoopClock
from asyncllm.errors import ProtocolError
from asyncllm.testing import FaultyServer, Op, ScriptedReply, ScriptedTransport, SeenRequest, Status
from asyncllm_anthropic.bedrock import connect
from asyncllm_anthropic.eventstream import Frame, FrameDecoder
from aws_signature import is_signed, scope

ID, SECRET, TOKEN = "AKIDEXAMPLE0001", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLETOKEN=="
KEYS: dict[str, Any] = {"region": "eu-west-1", "access_key_id": ID, "secret_access_key": SECRET}
MODEL_ID = "anthropic.claude-sonnet-4-20250514-v1:0"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-20250514-v1:0"
PROMPT = "my canary is blue"


@asynccontextmanager
async def serving(
    script: Sequence[Op] | Callable[[SeenRequest], Sequence[Op]] = repeat,
    *,
    model: str = MODEL_ID,
    api_key: str | None = None,
    env: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A service, and a client of it that tries once, with keys by option unless others are given."""
    if api_key is None and env is None and not options.keys() - {"beta", "headers", "session_token", "max_tokens"}:
        options = KEYS | options
    async with (
        FaultyServer(script) as server,
        Client(
            model=f"bedrock:{model}",
            base_url=server.url,
            api_key=api_key,
            retry=None,
            options=options,
            env=env or {},
        ) as client,
    ):
        yield server, client


async def failure(script: Sequence[Op] | Callable[[SeenRequest], Sequence[Op]], *, stream: bool = True) -> APIError:
    async with serving(script, session_token=TOKEN) as (_, client):
        with pytest.raises(APIError) as caught:
            if not stream:
                await client.chat(PROMPT)
            async with client.stream(PROMPT) as events:
                async for _ in events:
                    pass
    shown = f"{caught.value} {caught.value.facts()}"
    assert not [secret for secret in (PROMPT, ID, SECRET, TOKEN) if secret in shown]
    return caught.value


# -- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "action"), [(False, "invoke"), (True, "invoke-with-response-stream")])
async def test_the_model_stands_in_the_address_and_not_in_the_body(stream: bool, action: str) -> None:
    async with serving() as (server, client):
        if stream:
            assert [piece async for piece in client.stream_text(PROMPT)] == ["my", " canary", " is", " blue"]
        else:
            assert (await client.chat(PROMPT, system="Be brief.")).text == PROMPT

    (seen,) = server.requests
    assert seen.path == f"/model/{MODEL_ID}/{action}"
    assert seen.json() == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 10_000,
        "messages": [{"role": "user", "content": PROMPT}],
        **({} if stream else {"system": "Be brief."}),
    }


async def test_features_stand_in_the_body() -> None:
    async with serving(beta="a-1, b-2") as (server, client):
        await client.chat(PROMPT)

    assert server.requests[0].json()["anthropic_beta"] == ["a-1", "b-2"]


@pytest.mark.parametrize("model", [MODEL_ID, ARN, "eu.anthropic.claude"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_signed_as_it_arrives(model: str, stream: bool) -> None:
    async with serving(model=model, headers={"X-Trace": "a  b"}) as (server, client):
        if stream:
            async with client.stream("caf\u00e9") as events:
                async for _ in events:
                    pass
        else:
            await client.chat("caf\u00e9")

    (seen,) = server.requests
    assert scope(seen) == (ID, "eu-west-1", "bedrock")
    assert "%2F" in seen.path or "/" not in model
    seen.headers["x-trace"] = "a b"  # by the rules, inner spaces count once
    assert is_signed(seen, SECRET)
    assert not is_signed(seen, SECRET[1:])
    assert "x-amz-security-token" not in seen.headers


async def test_a_token_of_a_session_is_sent_and_signed() -> None:
    async with serving(session_token=TOKEN) as (server, client):
        await client.chat(PROMPT)

    (seen,) = server.requests
    assert seen.headers["x-amz-security-token"] == TOKEN
    assert "x-amz-security-token" in seen.headers["authorization"]
    assert is_signed(seen, SECRET)


async def test_keys_and_region_come_from_the_environment() -> None:
    env = {
        "AWS_ACCESS_KEY_ID": ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    async with serving(env=env) as (server, client):
        await client.chat(PROMPT)

    (seen,) = server.requests
    assert scope(seen) == (ID, "us-west-2", "bedrock")
    assert seen.headers["x-amz-security-token"] == TOKEN
    assert is_signed(seen, SECRET)


@pytest.mark.parametrize("way", ["env", "key"])
async def test_a_bearer_token_needs_neither_keys_nor_a_region(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncllm_anthropic.signing.find_spec", lambda _: None)
    given: dict[str, Any] = {"env": {"AWS_BEARER_TOKEN_BEDROCK": "bedrock-key-1"}} if way == "env" else {}
    async with serving(api_key="bedrock-key-1" if way == "key" else None, **given) as (server, client):
        await client.chat(PROMPT)

    assert server.requests[0].headers["authorization"] == "Bearer bedrock-key-1"


async def test_keys_that_are_configured_come_before_a_token_of_the_environment() -> None:
    async with serving(env={"AWS_BEARER_TOKEN_BEDROCK": "bedrock-key-1"}, **KEYS) as (server, client):
        await client.chat(PROMPT)

    assert is_signed(server.requests[0], SECRET)


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of AWS's tools, and keys in the environment of the process that are nobody's business."""
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n", encoding="utf-8"
    )
    (tmp_path / "config").write_text("[profile work]\nregion = ap-south-1\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSTRANGER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stranger")


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize("given", [{"env": {"AWS_PROFILE": "work"}}, {"profile": "work"}])
async def test_a_profile_has_keys_and_a_region(given: dict[str, Any]) -> None:
    async with serving(**given) as (server, client):
        await asyncio.gather(*(client.chat(PROMPT) for _ in range(4)))

    for seen in server.requests:
        assert scope(seen) == (ID, "ap-south-1", "bedrock")
        assert is_signed(seen, SECRET)


@pytest.mark.usefixtures("profiles")
async def test_keys_of_the_process_are_not_those_of_the_client() -> None:
    async with serving(env={"AWS_REGION": "us-east-1"}) as (server, client):
        with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
            await client.chat(PROMPT)

    assert caught.value.field == "access_key_id"
    assert not server.requests


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "https://bedrock-runtime.us-east-1.amazonaws.com"),
        ("cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_the_address_is_that_of_the_region(region: str, host: str) -> None:
    transport = ScriptedTransport([ScriptedReply(body=msgspec.json.encode(message()))])
    config = Config(backend="bedrock", options={**KEYS, "region": region})
    backend = connect(config, Context(transport=transport, clock=LoopClock(), env={}))
    request = asyncllm.Request(model=MODEL_ID, messages=(Message("user", PROMPT),))

    async with backend.open(request):
        pass

    assert transport.calls[0].url == f"{host}/model/{MODEL_ID}/invoke"


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no region": ("region", {"env": {"AWS_BEARER_TOKEN_BEDROCK": "bedrock-key-1"}}),
    "no region to sign for": ("region", {"options": {"access_key_id": ID, "secret_access_key": SECRET}}),
    "a region that is none": ("region", {"options": {**KEYS, "region": "evil.example/"}}),
    "a region of the environment that is none": ("region", {"env": {"AWS_REGION": "a.b"}, "options": {}}),
    "an id without its secret": ("secret_access_key", {"options": {"region": "us-east-1", "access_key_id": ID}}),
    "a secret without its id": ("access_key_id", {"options": {"region": "us-east-1", "secret_access_key": SECRET}}),
    "a secret of two lines": ("api_key", {"options": {**KEYS, "secret_access_key": f"{SECRET}\n"}}),
    "two callers": ("access_key_id", {"api_key": "bedrock-key-1", "options": KEYS}),
    "a profile that is not there": ("access_key_id", {"options": {"profile": "nobody", "region": "us-east-1"}}),
    "an option of nobody": ("bearer", {"options": {**KEYS, "bearer": True}}),
}


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize("name", WRONG)
async def test_what_is_configured_wrongly_is_refused_by_name(name: str) -> None:
    field, given = WRONG[name]
    async with Client(model=f"bedrock:{MODEL_ID}", retry=None, **{"env": {}, **given}) as client:
        with pytest.raises(ConfigError) as caught:
            await client.chat(PROMPT)

    assert caught.value.field == field
    assert not [secret for secret in (ID, SECRET) if secret in str(caught.value)]


async def test_without_botocore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncllm_anthropic.signing.find_spec", lambda _: None)
    async with serving() as (_, client):
        with pytest.raises(ConfigError, match=r"asyncllm\[bedrock\]"):
            await client.chat(PROMPT)


@pytest.mark.parametrize("model", ["..", "a b", "a?b", "a%2Fb", "@", "caf\u00e9"])
async def test_a_model_that_is_none_is_refused(model: str) -> None:
    async with serving(model=model) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.chat(PROMPT)

    assert caught.value.field == "model"
    assert not server.requests


async def test_neither_backend_nor_call_shows_a_secret() -> None:
    config = Config(backend="bedrock", options={**KEYS, "session_token": TOKEN})
    backend = connect(config, Context(transport=ScriptedTransport(), clock=LoopClock(), env={}))

    shown = f"{config!r} {backend!r} {vars(backend)!r}"

    assert not [secret for secret in (SECRET, TOKEN) if secret in shown]


def test_the_parts_of_a_signature_are_secrets_of_a_call() -> None:
    signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    told = f"AWS4-HMAC-SHA256 Credential={ID}/20261121/eu-west-1/bedrock/aws4_request, SignedHeaders=host, Signature="

    secrets = HttpCall(url="", headers={"Authorization": told + signature}).secrets

    assert {ID, signature} <= set(secrets)
    assert not {"bedrock", "eu-west-1"} & set(secrets)


# -- errors -------------------------------------------------------------------------------------------------------


STATUSES = [
    (400, "ValidationException", asyncllm.BadRequestError, False),
    (400, "ServiceQuotaExceededException", asyncllm.QuotaExceededError, False),
    (403, "AccessDeniedException", asyncllm.PermissionDeniedError, False),
    (403, "ExpiredTokenException", asyncllm.AuthenticationError, False),
    (403, "UnrecognizedClientException", asyncllm.AuthenticationError, False),
    (404, "ResourceNotFoundException", asyncllm.NotFoundError, False),
    (408, "ModelTimeoutException", asyncllm.APIStatusError, True),
    (424, "ModelErrorException", asyncllm.APIStatusError, False),
    (429, "ModelNotReadyException", asyncllm.OverloadedError, True),
    (429, "ThrottlingException", asyncllm.RateLimitError, True),
    (500, "InternalServerException", asyncllm.InternalServerError, True),
    (503, "ServiceUnavailableException", asyncllm.OverloadedError, True),
]


@pytest.mark.parametrize(("status", "name", "kind", "retryable"), STATUSES)
async def test_a_status_is_the_error_that_its_header_names(
    status: int, name: str, kind: type[APIError], retryable: bool
) -> None:
    headers: dict[str, Any] = {
        "x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/",
        "x-amzn-requestid": "r-1",
    }
    error = await failure(whole({"message": "slow down"}, status, headers))

    assert type(error) is kind
    assert (error.status, error.code, error.retryable) == (status, name, retryable)
    assert error.message == "slow down"


async def test_an_error_does_not_repeat_keys_and_prompts() -> None:
    def echo(request: SeenRequest) -> Sequence[Op]:
        told = f"cannot serve {request.headers} {request.body.decode()}"
        return whole({"Message": told}, 403)

    assert "cannot serve" in (await failure(echo)).message


async def test_a_count_that_fails_does_not_repeat_the_prompt() -> None:
    def echo(request: SeenRequest) -> Sequence[Op]:
        prompt = b64decode(request.json()["input"]["invokeModel"]["body"]).decode()
        return whole({"message": f"too long: {prompt}"}, 400, headers={"x-amzn-errortype": "ValidationException"})

    async with serving(echo) as (_, client):
        with pytest.raises(asyncllm.BadRequestError) as caught:
            await client.check_prompt(PROMPT)

    assert (caught.value.status, caught.value.code) == (400, "ValidationException")
    assert "too long" in caught.value.message
    assert PROMPT not in str(caught.value)


async def test_a_prompt_is_counted_as_it_would_be_sent() -> None:
    async with serving() as (server, client):
        check = await client.check_prompt("one two three", max_tokens=7)

    (seen,) = server.requests
    assert seen.path == f"/model/{MODEL_ID}/count-tokens"
    assert is_signed(seen, SECRET)
    assert (check.tokens, check.max_tokens) == (3, 7)


# -- streams ------------------------------------------------------------------------------------------------------


EXCEPTIONS = [
    ("internalServerException", asyncllm.InternalServerError, 500, True),
    ("modelStreamErrorException", asyncllm.InternalServerError, 424, True),
    ("modelTimeoutException", asyncllm.APIStatusError, 408, True),
    ("serviceUnavailableException", asyncllm.OverloadedError, 503, True),
    ("throttlingException", asyncllm.RateLimitError, 429, True),
    ("validationException", asyncllm.BadRequestError, 400, False),
    ("somethingNewException", asyncllm.InternalServerError, 500, True),
]


@pytest.mark.parametrize(("name", "kind", "status", "retryable"), EXCEPTIONS)
async def test_an_exception_in_a_stream_is_typed_and_has_what_had_come(
    name: str, kind: type[APIError], status: int, retryable: bool
) -> None:
    body = framed(start(), *text(0, "Hel")[:2]) + exception(name, f"no {PROMPT} {ID} {TOKEN}")
    error = await failure(streamed(body, FRAMED))

    assert type(error) is kind
    assert (error.status, error.code, error.retryable) == (status, name[:1].upper() + name[1:], retryable)
    assert error.partial is not None
    assert error.partial.text == "Hel"


async def test_an_error_of_the_framing_is_one_too() -> None:
    told = frame({":message-type": "error", ":error-code": "InternalError", ":error-message": "broken"}, b"")
    error = await failure(streamed(framed(start()) + told, FRAMED))

    assert (type(error), error.code, error.message) == (asyncllm.InternalServerError, "InternalError", "broken")


async def test_an_error_event_inside_of_a_frame_is_the_error_it_means() -> None:
    told = event("error", error={"type": "overloaded_error", "message": "busy"})
    error = await failure(streamed(framed(start(), told), FRAMED))

    assert type(error) is asyncllm.OverloadedError


async def test_frames_of_another_kind_are_passed_over() -> None:
    other = frame({":message-type": "event", ":event-type": "initial-response"}, b"{}")
    body = other + framed(start(), *text(0, "Hi"), *stop())
    async with serving(streamed(body, FRAMED, headers={"x-amzn-requestid": "r-1"})) as (_, client):
        async with client.stream(PROMPT) as stream:
            async for _ in stream:
                pass

    reply = stream.response
    assert (reply.text, reply.model, reply.request_id, reply.finish_reason) == ("Hi", MODEL, "r-1", "stop")


async def test_a_whole_reply_has_the_id_of_its_header() -> None:
    script = whole(message({"type": "text", "text": "Hi"}), headers={"x-amzn-requestid": "r-1"})
    async with serving(script) as (_, client):
        assert (await client.chat(PROMPT)).request_id == "r-1"


GOOD = framed(start(), *text(0, "Hel", "lo"))
DAMAGED = {
    "a checksum of the head": GOOD + b"\x00\x00\x00\x20\x00\x00\x00\x08\x00\x00\x00\x00" + bytes(20),
    "a checksum of the frame": GOOD + chunk(event("ping"))[:-1] + b"\xff",
    "no message type": GOOD + frame({}, b"{}"),
    "an exception without a name": GOOD + frame({":message-type": "exception"}, b"{}"),
    "text in place of frames": GOOD + b"data: {}\n\ndata: {}\n\n",
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_frame_is_an_error_with_what_had_come(name: str) -> None:
    error = await failure(streamed(DAMAGED[name], FRAMED))

    assert type(error) is ProtocolError
    assert error.maybe_billed
    assert error.partial is not None
    assert error.partial.text == "Hello"


@pytest.mark.parametrize("body", [b"", GOOD[:5], GOOD[:-1], GOOD, GOOD + framed(*stop())[:-1]])
async def test_a_stream_that_ends_early_is_interrupted(body: bytes) -> None:
    error = await failure(streamed(body, FRAMED))

    assert isinstance(error, StreamInterrupted)


async def test_a_stream_of_another_kind_is_refused_by_its_name() -> None:
    script = [Status(200, {"Content-Type": "text/event-stream"}, b"data: {}\n\n")]
    error = await failure(script)

    assert isinstance(error, ProtocolError)
    assert "text/event-stream" in error.message


HEADERS = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=40), max_size=4)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=50)), max_size=5), st.data())
def test_frames_are_those_that_botocore_reads_wherever_they_are_cut(
    frames: list[tuple[dict[str, str], bytes]], data: st.DataObject
) -> None:
    body = b"".join(frame(headers, payload) for headers, payload in frames)
    cut = data.draw(st.integers(0, len(body)))
    reference = import_module("botocore.eventstream").EventStreamBuffer()
    reference.add_data(body)
    expected = [Frame(dict(one.headers), one.payload) for one in reference]
    decoder = FrameDecoder()

    found: list[Frame | None] = []
    for piece in (body[:cut], body[cut:]):
        decoder.push(piece)
        found += iter(decoder.pop, None)

    assert found == expected
    assert decoder.is_empty


def sealed(headers: bytes) -> bytes:
    """A frame with right checksums, whatever its headers."""
    prelude = pack(">II", 16 + len(headers), len(headers))
    body = prelude + pack(">I", crc32(prelude)) + headers
    return body + pack(">I", crc32(body))


def test_headers_of_other_types_are_passed_over() -> None:
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
    others = b"".join(bytes([1, 97 + kind, kind]) + bytes(size) for kind, size in sizes.items())
    decoder = FrameDecoder()

    decoder.push(sealed(others + b"\x01x\x06\x00\x02ab" + b"\x01y\x07\x00\x02cd"))

    assert decoder.pop() == Frame({"y": "cd"}, b"")


@given(st.binary(max_size=80), st.booleans())
def test_no_bytes_make_frames_raise_anything_of_their_own(data: bytes, inside: bool) -> None:
    decoder = FrameDecoder()
    decoder.push(sealed(data) if inside else data)
    failed: Exception | None = None

    try:
        decoder.pop()
    except Exception as error:
        failed = error

    assert failed is None or isinstance(failed, ProtocolError | asyncllm.errors.EventTooLargeError)


def test_a_frame_over_the_limit_of_the_format_is_refused_before_it_is_held() -> None:
    prelude = pack(">II", 2**30, 0)
    decoder = FrameDecoder()
    decoder.push(prelude + pack(">I", crc32(prelude)))

    with pytest.raises(asyncllm.errors.EventTooLargeError):
        decoder.pop()


async def test_keys_that_expire_are_fetched_again() -> None:
    """Of a chain whose keys are said to be stale, each call has fresh ones."""

    class Chain:
        access_key, secret_key, token = ID, SECRET, None
        fetched = 0

        def refresh_needed(self) -> bool:
            return True

        def get_frozen_credentials(self) -> Any:
            self.fetched += 1
            return self

    transport = ScriptedTransport()
    config = Config(backend="bedrock", api_key=None, options=KEYS)
    backend: Any = connect(config, Context(transport=transport, clock=LoopClock(), env={}))
    chain = backend._caller._credentials = Chain()
    headers = await backend._caller.sign("https://host/model/m/invoke", {}, b"")

    assert chain.fetched == 1
    assert "Authorization" in headers


def test_a_key_of_bedrock_is_a_secret() -> None:
    config = Config(backend="bedrock", api_key=Secret("bedrock-key-1"), base_url="http://127.0.0.1:9")
    backend = connect(config, Context(transport=ScriptedTransport(), clock=LoopClock(), env={}))

    assert "bedrock-key-1" not in repr(vars(backend)) + repr(vars(backend._caller))  # type: ignore[attr-defined]
