"""Claude on Amazon Bedrock: the Messages API by `InvokeModel`, signed with AWS keys or by a bearer token.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html, and
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html for the body.
Environment: `AWS_BEARER_TOKEN_BEDROCK`, or what AWS's tools read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_SESSION_TOKEN`, `AWS_PROFILE`, and `AWS_REGION` or `AWS_DEFAULT_REGION`.

A model is an id, the id of an inference profile, or the ARN of either. Lists of models belong to another service.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from asyncllm.backend import About, Backend, Config, Context, HttpCall, HttpReply, require_supported
from asyncllm.dialect.lenient import decode
from asyncllm.dialect.requests import encode
from asyncllm.errors import APIStatusError, InvalidRequestError
from asyncllm.events import Event, Events
from asyncllm.exchange import Exchange
from asyncllm.rejection import excerpt
from asyncllm.types import PromptCheck, Request
from asyncllm_anthropic.eventstream import EVENT_STREAM, FramedMessage
from asyncllm_anthropic.options import SHARED, Options
from asyncllm_anthropic.replies import read_message
from asyncllm_anthropic.requests import write_messages
from asyncllm_anthropic.signing import OPTIONS, caller, needs_region

__all__ = ["about", "connect"]

_ADDRESS = "ANTHROPIC_BEDROCK_BASE_URL"
_VERSION = "bedrock-2023-05-31"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,2047}")
_REQUEST_ID = "x-amzn-requestid"


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options: those of `anthropic` but for `bearer`, and `region`, `profile`, `access_key_id`, `secret_access_key`,
    `session_token`. `api_key` is a key of Bedrock's own, which is sent as a bearer token.
    """
    return Bedrock(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Claude on Amazon Bedrock",
        variables=(
            "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
            "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", _ADDRESS,
        ),
        calls=("chat", "check_prompt"),
    )  # fmt: skip


class _Count(Struct):
    tokens: int = msgspec.field(name="inputTokens")


_count = msgspec.json.Decoder(_Count)


class Bedrock:
    """One region, by one caller."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options(*SHARED, *OPTIONS)
        self._name = config.backend
        self._transport = context.transport
        self._caller = caller(config, context.env)
        self._url = _url(config, context.env, self._caller.region)
        self._options = Options.of(config, version=_VERSION)
        self._headers = config.headers({"Content-Type": "application/json", "Accept": "application/json"})

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Start one chat; see `asyncllm.backend.Backend`."""
        body = encode(self._body(request))
        call = await self._call(request, "invoke-with-response-stream" if request.stream else "invoke", body)
        async with Exchange(self._transport, call, whole=_read, stream=_decoder) as events:
            yield events

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """What `CountTokens` counts; the service does not say how many tokens a model takes.

        Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CountTokens.html
        """
        prompt = encode(self._body(request))
        body = encode({"input": {"invokeModel": {"body": b64encode(prompt).decode()}}})
        call = await self._call(msgspec.structs.replace(request, stream=False), "count-tokens", body)
        try:
            async with self._transport.open(call) as reply:
                tokens = decode(await reply.read(), _count, "a count of tokens").tokens
        except APIStatusError as error:
            # What was sent is base64 of the prompt, so the transport cannot know what an echo of the prompt is.
            told = excerpt(error.message.encode(), sent=prompt)
            raise type(error)(told, body=error.body, **error.facts()) from None
        room = request.sampling.max_tokens
        return PromptCheck(tokens=tokens, limit=None, max_tokens=room if isinstance(room, int) else 0)

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _body(self, request: Request) -> dict[str, Any]:
        require_supported(request, self._options.supported, backend=self._name)
        head: dict[str, Any] = {"anthropic_version": self._options.version}
        if self._options.beta:
            head["anthropic_beta"] = self._options.beta
        return write_messages(request, self._options, head, backend=self._name)

    async def _call(self, request: Request, action: str, body: bytes) -> HttpCall:
        if not _MODEL.fullmatch(request.model):
            raise InvalidRequestError(
                "a model of Bedrock is an id or an ARN: letters, digits and any of . _ : / -", field="model"
            )
        # A colon may stand in a path as it is, and does after HTTP libraries have tidied the address: the signature is
        # over the path as it arrives.
        url = f"{self._url}/model/{quote(request.model, safe=':')}/{action}"
        headers = await self._caller.sign(url, self._headers, body)
        return HttpCall(url=url, body=body, headers=headers, stream=request.stream, timeouts=request.timeouts)


def _url(config: Config, env: Mapping[str, str], region: str | None) -> str:
    """The address of the region, unless another one is given. Raises `ConfigError` where there is neither."""
    if region is None and not config.base_url and not env.get(_ADDRESS, "").strip():
        raise needs_region(config)
    # Source: https://docs.aws.amazon.com/general/latest/gr/bedrock.html
    end = ".cn" if region is not None and region.startswith("cn-") else ""
    return config.url(env, _ADDRESS, f"https://bedrock-runtime.{region}.amazonaws.com{end}")


def _read(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
    request_id = reply.headers.get(_REQUEST_ID)
    return read_message(body, request_id=request_id, sent=call.body, secrets=call.secrets)


def _decoder(call: HttpCall, reply: HttpReply, kind: str) -> FramedMessage | None:
    if kind not in (EVENT_STREAM, ""):
        return None
    return FramedMessage(request_id=reply.headers.get(_REQUEST_ID), sent=call.body, secrets=call.secrets)
