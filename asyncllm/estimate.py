"""How many tokens a call may take, before anybody has counted: for limits and budgets, which must not wait to be told.

Four characters make a token in English prose, fewer in code and most other languages. Usage that a backend reports
replaces the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncllm.backend import AnyRequest
from asyncllm.types import Message, Request, TextPart

__all__ = ["estimated_input", "estimated_message", "estimated_texts", "estimated_tokens"]

_CHARACTERS = 4
_PART = 1000
"""An image, a sound or a document, whose size says little about what a model makes of it."""


def estimated_tokens(request: AnyRequest) -> int:
    """Input and output together; output counts only where `max_tokens` bounds it."""
    output = 0
    if isinstance(request, Request) and isinstance(request.sampling.max_tokens, int):
        answers = request.sampling.n
        output = request.sampling.max_tokens * (answers if isinstance(answers, int) else 1)
    return estimated_input(request) + output


def estimated_input(request: AnyRequest) -> int:
    """Tokens of the prompt, at least one."""
    if not isinstance(request, Request):
        return estimated_texts(request.texts)
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if isinstance(request.prompt, str):
        return max(1, len(request.prompt) // _CHARACTERS)
    return max(1, sum(estimated_message(message) for message in request.messages))


def estimated_texts(texts: Iterable[str]) -> int:
    """Tokens of texts, at least one."""
    return max(1, sum(map(len, texts)) // _CHARACTERS)


def estimated_message(message: Message) -> int:
    """Tokens of one message, what it was thought of before it left out."""
    calls = sum((len(call.name) + len(call.arguments)) // _CHARACTERS + 1 for call in message.tool_calls)
    if isinstance(message.content, str):
        return calls + len(message.content) // _CHARACTERS + 1
    parts = message.content
    return calls + sum(len(one.text) // _CHARACTERS + 1 if isinstance(one, TextPart) else _PART for one in parts)
