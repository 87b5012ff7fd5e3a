"""`POST /tokenize` and `/detokenize`, as vLLM has them.

Source: https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html (the tokenizer API).
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from asyncllm.dialect.messages import MessageWire, ToolWire
from asyncllm.dialect.served import read_chat_request, read_document
from asyncllm.errors import BadRequestError, InvalidRequestError, UnsupportedError
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.generation import check_asked
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.bounds import No
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.wire import read_fields, said_as
from asyncllm.server.replies import send_json

__all__ = ["Detokenize", "Tokenize"]


class _Tokenize(Struct):
    """Either a text or a conversation."""

    model: str | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    messages: Annotated[list[MessageWire], Meta(min_length=1)] | None = None
    tools: list[ToolWire] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: No | None = None


class _Detokenize(Struct):
    tokens: list[Annotated[int, Meta(ge=0, lt=2**31)]]
    model: str | None = None


class Tokenize(Endpoint):
    """The tokens of a text, or of a conversation by the model's template."""

    described = Described(
        body=_Tokenize, reply=objects.TokenIds, limits={"messages": ("maxItems", "max_messages")}, absent="model"
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Tokenize)
        has_messages = asked.messages is not None
        if has_messages == (asked.prompt is not None):
            raise InvalidRequestError("give prompt, a text, or messages, a conversation", field="prompt")
        if asked.return_token_strs:
            raise UnsupportedError("return_token_strs: ask /detokenize for them", field="return_token_strs")
        if has_messages and (asked.add_generation_prompt is False or asked.continue_final_message):
            field = "continue_final_message" if asked.continue_final_message else "add_generation_prompt"
            raise UnsupportedError(f"{field}: a conversation is one that is to be answered", field=field)
        prompt: Any = asked.prompt
        options: dict[str, Any] = {}
        if has_messages:
            chat = read_chat_request(document)
            check_asked(chat, settings)
            prompt, options["tools"] = list(chat.messages), chat.tools
        elif asked.add_special_tokens is not None:
            options["extra"] = {"add_special_tokens": asked.add_special_tokens}
        name, model, client = self.find(incoming, asked.model or "")
        async with self.admit(incoming, name, 0), Watched(incoming.receive):
            with said_as(name):
                told = await client.tokenize(prompt, model=model, **options)
        await send_json(
            incoming.send,
            {"count": len(told), "max_model_len": told.limit, "tokens": told.ids, "token_strs": None},
        )


class Detokenize(Endpoint):
    """The text that tokens stand for."""

    described = Described(body=_Detokenize, reply=objects.Text, absent="model")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        document = read_document(await read_body(incoming, self.service.settings))
        asked = read_fields(document, _Detokenize)
        name, model, client = self.find(incoming, asked.model or "")
        text = ""
        if asked.tokens:
            async with self.admit(incoming, name, 0), Watched(incoming.receive):
                with said_as(name):
                    try:
                        text = await client.detokenize(asked.tokens, model=model)
                    except BadRequestError as error:  # the model has no such token
                        raise InvalidRequestError(f"tokens: {error.message}", field="tokens") from None
        await send_json(incoming.send, {"prompt": text})
