"""`asyncllm chat` and `asyncllm complete`: one prompt, one answer, or the start of a conversation."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

import msgspec

from asyncllm.calls import CallOptions
from asyncllm.cli.conversation import Conversation
from asyncllm.cli.options import call_options, make_client
from asyncllm.cli.output import Output, print_json
from asyncllm.cli.prompt import is_conversation, read_prompt
from asyncllm.cli.status import OK
from asyncllm.client import Client
from asyncllm.stream import Stream
from asyncllm.types import Response, ToolCall

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Answer the prompt on stdout, and return the exit status. Raises `AsyncLLMError`, `KeyboardInterrupt`."""
    options = call_options(args)
    client = make_client(args)
    output = Output(reasoning=args.reasoning)
    if args.command == "chat" and not args.json and is_conversation(args.prompt):
        return Conversation(client, options, output, args).run()
    prompt = read_prompt(args.prompt)
    # The first Ctrl-C cancels the task within, so every block on the way out is left, and the model stops.
    with asyncio.Runner() as runner:
        try:
            runner.run(_answer(client, prompt, options, output, args))
        finally:
            output.end_line()
    return OK


async def _answer(client: Client, prompt: str, options: CallOptions, output: Output, args: Namespace) -> None:
    async with client:
        if args.json:
            print_json(_as_json(await _whole(client, prompt, options, args)))
        elif args.no_stream:
            output.whole(await _whole(client, prompt, options, args))
        else:
            async with _stream(client, prompt, options, args) as stream:
                async for event in stream:
                    output.event(event)
            output.rest(stream.response)


async def _whole(client: Client, prompt: str, options: CallOptions, args: Namespace) -> Response:
    if args.command == "chat":
        return await client.chat(prompt, **options)
    return await client.complete(prompt, **options)


def _stream(client: Client, prompt: str, options: CallOptions, args: Namespace) -> Stream:
    if args.command == "chat":
        return client.stream(prompt, **options)
    return client.stream_complete(prompt, **options)


def _as_json(response: Response) -> dict[str, Any]:
    """The reply as scripts read it: these names always, reasoning and the like where there is any."""
    reply: dict[str, Any] = {
        "text": response.text,
        "finish_reason": response.finish_reason,
        "model": response.model,
        "backend": response.backend,
        "request_id": response.request_id,
        "usage": msgspec.to_builtins(response.usage),
        "tool_calls": _calls(response.tool_calls),
    }
    reply |= {name: value for name in ("reasoning", "refusal") if (value := getattr(response, name))}
    if len(response.choices) > 1:
        reply["choices"] = [
            {
                "index": choice.index,
                "text": choice.message.text,
                "finish_reason": choice.finish_reason,
                "tool_calls": _calls(choice.message.tool_calls),
            }
            for choice in response.choices
        ]
    return reply


def _calls(calls: tuple[ToolCall, ...]) -> list[Any]:
    return [msgspec.to_builtins(call) for call in calls]
