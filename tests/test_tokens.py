"""Counting and shortening a conversation, whatever it looks like."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import Client, ImagePart, Message, PromptCheck, Request, TextPart, ToolCall, tokens
from asyncllm.testing import ScriptedBackend

roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
conversations = st.lists(
    st.builds(Message, roles, st.text(alphabet="ab ", max_size=60)), min_size=1, max_size=12
)  # fmt: skip


@given(messages=conversations, limit=st.integers(1, 200))
def test_what_is_kept_fits_and_with_what_is_dropped_is_all_there_was(messages: list[Message], limit: int) -> None:
    before = list(messages)

    try:
        short = asyncio.run(tokens.truncate(messages, limit))
    except asyncllm.InvalidRequestError:
        users = [at for at, message in enumerate(messages) if message.role == "user"]
        least = [
            message
            for at, message in enumerate(messages)
            if message.role in ("system", "developer") or not users or at >= users[-1]
        ]
        assert tokens.estimate(least) > limit
        return

    assert messages == before
    assert short.tokens == tokens.estimate(short.messages) <= limit
    kept, dropped = list(short.messages), list(short.dropped)
    merged = [kept.pop(0) if kept and kept[0] is message else dropped.pop(0) for message in messages]
    assert [id(message) for message in merged] == [id(message) for message in messages]
    assert not any(message.role in ("system", "developer") for message in short.dropped)
    rest = [message.role for message in short.messages if message.role not in ("system", "developer")]
    assert not short.dropped or rest[0] == "user"


class Counting(ScriptedBackend):
    """Ten tokens a message, by its own count."""

    asked = 0

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        self.asked += 1
        return PromptCheck(tokens=10 * len(request.messages), limit=None)


async def test_as_many_turns_go_as_the_backends_own_count_asks_for_and_few_questions_find_them() -> None:
    backend = Counting([[]])
    messages = [Message("user", str(number)) for number in range(100)]

    async with Client(backend=backend, model="m") as client:
        short = await tokens.truncate(messages, 355, client=client)

    assert [message.text for message in short.messages] == [str(number) for number in range(65, 100)]
    assert (short.tokens, short.is_exact) == (350, True)
    assert backend.asked <= 10


def test_calls_and_parts_that_are_no_text_count() -> None:
    call = Message("assistant", tool_calls=(ToolCall("c", "look", "x" * 400),))
    image = Message("user", [TextPart("abcd"), ImagePart(url="https://x.test/a.png")])

    assert tokens.estimate([call]) >= 100
    assert tokens.estimate([image]) >= 1000
    assert tokens.estimate("hi", system="x" * 400) >= 100


def test_what_was_kept_shows_in_no_repr() -> None:
    assert "canary" not in repr(asyncio.run(tokens.truncate("canary", 100)))
