"""llama.cpp's own server, which counts prompts by the model's tokenizer at routes of its own.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (`/tokenize`, `/detokenize`,
`/apply-template`, `/props`, `/v1/chat/completions/input_tokens`). Environment: `LLAMA_API_KEY`,
`LLAMA_SERVER_BASE_URL`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import About, Backend, Config, Context, HttpCall, require_supported
from asyncllm.dialect import write_chat
from asyncllm.dialect.lenient import decode
from asyncllm.errors import BadRequestError, InternalServerError, NotFoundError
from asyncllm.exchange import raise_embedded
from asyncllm.types import PromptCheck, Request, Sampling, Tokens
from asyncllm_openai import gateways
from asyncllm_openai.backend import OpenAI
from asyncllm_openai.offered import offered
from asyncllm_openai.table import GATEWAYS

__all__ = ["about", "connect"]


class _Tokens(Struct):
    """The reply to `POST /tokenize`."""

    tokens: list[Any]


class _Counted(Struct):
    """The reply to `POST /v1/chat/completions/input_tokens`."""

    input_tokens: int


class _Templated(Struct):
    """The reply to `POST /apply-template`."""

    prompt: str


class _Text(Struct):
    """The reply to `POST /detokenize`."""

    content: str


class _Slot(Struct, frozen=True):
    n_ctx: int | None = None


class _Props(Struct):
    """The reply to `GET /props`."""

    default_generation_settings: _Slot = _Slot()


class _Meta(Struct):
    n_vocab: int


class _Model(Struct):
    meta: _Meta | None = None


class _Models(Struct):
    """The reply to `GET /v1/models`."""

    data: list[_Model]


_tokens = msgspec.json.Decoder(_Tokens)
_models = msgspec.json.Decoder(_Models)
_templated = msgspec.json.Decoder(_Templated)
_text = msgspec.json.Decoder(_Text)
_counted = msgspec.json.Decoder(_Counted)
_props = msgspec.json.Decoder(_Props)


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend. Options: those of every gateway."""
    row = GATEWAYS["llama-server"]
    url = config.url(context.env, row.address, row.url)
    server = _LlamaServer(config, context, gateways.service(row, config, context.env, url))
    return offered(server, about("").calls)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    told = gateways.about("llama-server")
    return msgspec.structs.replace(told, calls=(*told.calls, "check_prompt", "tokenize", "detokenize"))


class _LlamaServer(OpenAI):
    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count by the server's tokenizer, chat template and tools included; see `asyncllm.backend.PromptChecker`."""
        require_supported(request, self._supported, backend=self._name)
        root = self._url.removesuffix("/v1")
        if request.is_chat:
            bare = msgspec.structs.replace(request, sampling=Sampling(), constraint=None, stream=False)
            url = f"{self._url}/chat/completions/input_tokens"
            said = await self._told("POST", url, request, write_chat(bare, self._flavor))
            tokens = decode(said, _counted, "a count").input_tokens
        elif isinstance(request.prompt, tuple):
            tokens = len(request.prompt)
        else:
            asked = msgspec.json.encode({"content": request.prompt, "add_special": True})
            tokens = len(decode(await self._told("POST", f"{root}/tokenize", request, asked), _tokens, "tokens").tokens)
        return PromptCheck(
            tokens=tokens, limit=await self._limit(root, request), max_tokens=request.sampling.max_tokens or 0
        )

    async def tokenize(self, request: Request, /) -> Tokens:
        """By the server's tokenizer and template, tools included; see `asyncllm.backend.Tokenizer`."""
        require_supported(request, self._supported, backend=self._name)
        root = self._url.removesuffix("/v1")
        adds_marks = request.extra.get("add_special_tokens", True) is not False
        prompt: object = request.prompt
        if request.is_chat:
            bare = msgspec.structs.replace(request, sampling=Sampling(), constraint=None, stream=False, extra={})
            said = await self._told("POST", f"{root}/apply-template", request, write_chat(bare, self._flavor))
            prompt, adds_marks = decode(said, _templated, "a prompt").prompt, True
        asked = msgspec.json.encode({"content": prompt, "add_special": adds_marks})
        said = await self._told("POST", f"{root}/tokenize", request, asked)
        return Tokens(ids=tuple(decode(said, _tokens, "tokens").tokens), limit=await self._limit(root, request))

    async def detokenize(self, request: Request, /) -> str:
        """See `asyncllm.backend.Tokenizer`."""
        asked = msgspec.json.encode({"tokens": request.prompt})
        try:
            said = await self._told("POST", f"{self._url.removesuffix('/v1')}/detokenize", request, asked)
        except InternalServerError:
            await self._require_known(request)
            raise
        return decode(said, _text, "a text").content

    async def _require_known(self, request: Request) -> None:
        """Raise `BadRequestError` if the prompt has ids of no token, over which llama.cpp fails."""
        assert isinstance(request.prompt, tuple)  # as the contract has it
        listed = decode(await self._told("GET", f"{self._url}/models", request), _models, "models").data
        counts = [model.meta.n_vocab for model in listed if model.meta is not None]
        highest = max(request.prompt)
        if len(counts) == 1 and highest >= counts[0]:
            text = f"there is no token {highest}: this model has {counts[0]}"
            raise BadRequestError(text, status=400, param="prompt")

    async def _limit(self, root: str, request: Request) -> int | None:
        """Tokens of one slot, prompt and answer together; a server of several models does not say."""
        try:
            said = await self._told("GET", f"{root}/props", request)
        except NotFoundError:
            return None
        return decode(said, _props, "the server's properties").default_generation_settings.n_ctx

    async def _told(self, method: str, url: str, request: Request, body: bytes = b"") -> bytes:
        call = HttpCall(method=method, url=url, body=body, headers=self._headers, timeouts=request.timeouts)
        async with self._transport.open(call) as reply:
            said = await reply.read()
        raise_embedded(call, said)
        return said
