"""OpenAI's replies and chunks as structs, and those of services that put more into them.

The `Extended` forms are read only where a service is known to send them: OpenRouter's `reasoning_details`, its cost and
errors beside a choice; Gemini's `extra_content`, which holds thought signatures; Mistral's content in parts, some of
which are thoughts.

Sources: https://openrouter.ai/docs/use-cases/reasoning-tokens, https://ai.google.dev/gemini-api/docs/thought-signatures,
https://docs.mistral.ai/capabilities/reasoning.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = [
    "ExtendedChunk",
    "ExtendedMessage",
    "ExtendedReply",
    "ExtendedUsage",
    "InputDetails",
    "OutputDetails",
    "WireCall",
    "WireChoice",
    "WireChunk",
    "WireFunction",
    "WireLogprobs",
    "WireMessage",
    "WireReply",
    "WireToken",
    "WireTop",
    "WireUsage",
]

# Structs that live for one chunk and hold no cycles: nothing for the collector to track (`gc=False`).


class InputDetails(Struct, gc=False):
    """Shares of the prompt tokens."""

    cached_tokens: int | None = None
    audio_tokens: int | None = None


class OutputDetails(Struct, gc=False):
    """Shares of the generated tokens."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class WireUsage(Struct, gc=False):
    """What was consumed."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class WireFunction(Struct, gc=False):
    """What a tool call calls."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # some servers send the arguments decoded


class WireGoogle(Struct, gc=False):
    """Google's own part of `WireExtra`."""

    thought_signature: str | None = None


class WireExtra(Struct, gc=False):
    """What Gemini puts beside a tool call, and wants to see again with it."""

    google: WireGoogle | None = None


class WireCall(Struct, gc=False):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: WireFunction | None = None
    extra_content: WireExtra | None = None


class WireTop(Struct, gc=False):
    """One token and its probability."""

    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class WireToken(WireTop, gc=False):
    """One token with its rivals."""

    top_logprobs: list[WireTop] | None = None


class WireLogprobs(Struct, gc=False):
    """Chat has `content` and `refusal`; completions have parallel lists."""

    content: list[WireToken] | None = None
    refusal: list[WireToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class WireMessage(Struct, gc=False):
    """The `message` of a whole reply and the `delta` of a chunk, which differ in nothing that is read."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[WireCall] | None = None


class WireChoice(Struct, gc=False):
    """One answer, or a piece of one."""

    index: int = 0
    delta: WireMessage | None = None
    message: WireMessage | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: WireLogprobs | None = None
    stop_reason: int | str | None = None  # vLLM's: the stop text, or the id of the token, that ended it


class WireChunk(Struct, gc=False):
    """What every chunk of a stream may bring."""

    choices: list[WireChoice] | None = None
    usage: WireUsage | None = None
    error: Any = None


class WireReply(WireChunk, gc=False):
    """A whole reply, or the first chunk of a stream."""

    id: str | None = None
    model: str | None = None
    object: str | None = None


# -- with what some services add ---------------------------------------------------------------------------------
# A field that is only ever read may have a narrower type than that of its base; type checkers cannot know.
# pyright: reportIncompatibleVariableOverride=false


class ExtendedUsage(WireUsage, gc=False):
    """What was consumed, and what OpenRouter charges for it in US dollars."""

    cost: float | None = None


class WirePart(Struct, gc=False):
    """A part of content: text, a thought, or something beside the answer such as a reference."""

    type: str = ""
    text: str | None = None
    thinking: str | list[WirePart] | None = None

    @property
    def thought(self) -> str:
        """The text of a part that is a thought."""
        if isinstance(self.thinking, list):
            return "".join(part.text or "" for part in self.thinking)
        return self.thinking or ""


class ExtendedMessage(WireMessage, gc=False):
    """A message or delta whose content may come in parts, with what the service wants to see again."""

    # One text, once it is decoded.
    content: str | list[WirePart] | None = None  # type: ignore[assignment]
    extra_content: dict[str, Any] | None = None
    reasoning_details: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        parts = self.content
        if isinstance(parts, list):
            self.content = "".join(part.text or "" for part in parts if part.type != "thinking")
            self.reasoning_content = "".join(part.thought for part in parts if part.type == "thinking") or None
        if (self.extra_content or self.reasoning_details) and self.tool_calls is None:
            self.tool_calls = []  # no piece of text and nothing else: a stream reads it the general way


class ExtendedChoice(WireChoice, gc=False):
    """One answer, or what went wrong with it."""

    delta: ExtendedMessage | None = None
    message: ExtendedMessage | None = None
    error: Any = None


class ExtendedChunk(WireChunk, gc=False):
    """What every chunk of a stream may bring."""

    choices: list[ExtendedChoice] | None = None  # type: ignore[assignment]
    usage: ExtendedUsage | None = None

    def __post_init__(self) -> None:
        for choice in self.choices or ():
            self.error = self.error or choice.error


class ExtendedReply(ExtendedChunk, WireReply, gc=False):
    """A whole reply, or the first chunk of a stream."""
