"""Checks of what a backend may be asked beside `open`: each method it has works, and each it lacks is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from asyncllm.backend import Backend, Embedder, EmbedRequest, Health, JobBackend, Models, PromptChecker, Tokenizer
from asyncllm.client import Client
from asyncllm.errors import UnsupportedError
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import Request

__all__ = ["CallChecks"]

_ORDER = ("queued", "running")
_PAUSE_S = 0.02


class CallChecks(Subject):
    """Capabilities are what the backend has methods for; a client says of the others that they are not there."""

    @check
    async def test_a_prompt_is_counted_or_the_count_refused(self, backend: Backend) -> None:
        """More text is more tokens, and a count beyond the limit is not truthy."""
        if not isinstance(backend, PromptChecker):
            await self._refused(backend, "check_prompt", lambda client: client.check_prompt("Hello"))
            return
        short = await backend.check_prompt(self.request("one two three"))
        longer = await backend.check_prompt(self.request("one two three " * 50))
        assert type(short.tokens) is int, f"tokens is {short.tokens!r}"
        assert 0 < short.tokens < longer.tokens, f"{short.tokens} tokens for a text, {longer.tokens} for fifty of them"
        assert short.limit is None or short.limit > 0, f"the limit is {short.limit}"
        assert short, "a prompt of three words does not fit"
        if longer.limit is not None and self.max_tokens is not None:
            asked = self.request(max_tokens=longer.limit)
            assert not await backend.check_prompt(asked), "a prompt fits beside an answer as long as the limit"

    @check
    async def test_tokens_are_told_and_read_again_or_refused(self, backend: Backend) -> None:
        """The tokens of a text say it again, and those of a conversation are as many as are counted."""
        if not isinstance(backend, Tokenizer):
            await self._refused(backend, "tokenize", lambda client: client.tokenize("Hello"))
            await self._refused(backend, "detokenize", lambda client: client.detokenize([1]))
            return
        text = "one two three"
        asked = Request(model=self.model, prompt=text, extra={"add_special_tokens": False})
        told = await backend.tokenize(asked)
        assert told.ids, "a text has no tokens"
        assert all(type(one) is int and one >= 0 for one in told.ids), "a token is no number from 0 up"
        again = await backend.detokenize(Request(model=self.model, prompt=told.ids))
        assert again.strip() == text, "the tokens of a text are those of another"
        if isinstance(backend, PromptChecker):
            counted = await backend.check_prompt(self.request(text))
            assert len(await backend.tokenize(self.request(text))) == counted.tokens, "more or fewer than are counted"

    @check
    async def test_texts_are_embedded_in_order_or_refused(self, backend: Backend) -> None:
        """One vector a text, of one width, finite, the same for the same text."""
        if not isinstance(backend, Embedder):
            await self._refused(backend, "embed", lambda client: client.embed("Hello"))
            return
        texts = ("a cat sat on the mat", "prices rose in March", "a cat sat on the mat")
        request = EmbedRequest(model=self.embed_model or self.model, texts=texts)
        if self.embed_model is None:
            try:
                await backend.embed(request)
            except UnsupportedError as error:
                assert error.field, "embed is refused without naming the option that it lacks"  # noqa: PT017  # no pytest
                return
        reply = await backend.embed(request)
        assert len(reply) == len(texts), f"{len(texts)} texts and {len(reply)} vectors"
        first, second, third = reply
        assert len(first) == len(second) == len(third) > 0, "vectors of different widths"
        assert all(math.isfinite(value) for vector in reply for value in vector), "a vector is not finite"
        assert _distance(first, third) < _distance(first, second), "the vectors are not in the order of their texts"

    @check
    async def test_models_are_listed_or_the_list_refused(self, backend: Backend) -> None:
        """By names that are there and differ."""
        if not isinstance(backend, Models):
            await self._refused(backend, "list_models", lambda client: client.list_models())
            return
        names = [model.id for model in await backend.list_models()]
        assert all(names), "a model has no name"
        assert len(set(names)) == len(names), "two models have one name"

    @check
    async def test_a_backend_that_answers_says_that_it_is_alive(self, backend: Backend) -> None:
        """`is_alive` is `True` before and after a call; a client says so of a backend that cannot be asked."""
        for _ in range(2):
            alive = await backend.is_alive() if isinstance(backend, Health) else await self._client(backend).is_alive()
            assert alive is True, f"is_alive is {alive!r} of a backend that answers"
            await self.answer(backend)

    @check
    async def test_a_job_is_worked_off_or_refused(self, backend: Backend) -> None:
        """By an id from which it is found again; its status goes forward alone, and what it has made is there twice."""
        if not isinstance(backend, JobBackend):
            await self._refused(backend, "submit", lambda client: client.submit("Hello"))
            return
        assert backend.job_calls, "a backend with jobs takes none"
        if self.job_request is None:
            return
        state = await backend.submit(self.job_request)
        assert state.id, "a job has no id"
        place = 0
        async with asyncio.timeout(self.patience_s):
            while not state.is_final:
                assert _ORDER.index(state.status) >= place, f"a job goes back to {state.status!r}"
                place = _ORDER.index(state.status)
                await asyncio.sleep(_PAUSE_S)
                state = await backend.poll(state.id)
        assert state.status == "succeeded", f"the job ended as {state.status!r}: {state.error!r}"
        for _ in range(2):
            seen = await backend.poll(state.id)
            assert seen.status == "succeeded", f"a job that was done is {seen.status!r}"
            made = await backend.job_result(seen) if seen.result is None else seen.result
            assert made is not None, "a job that has succeeded has made nothing"

    @check
    async def test_a_client_gets_the_same_answer(self, backend: Backend) -> None:
        """Through every layer: whole, streamed, and as text."""
        if not self.chat:
            return
        client = self._client(backend)
        options = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        whole = await client.chat(self.prompt, **options)  # type: ignore[arg-type]
        async with client.stream(self.prompt, **options) as stream:  # type: ignore[arg-type]
            async for _ in stream:
                pass
        assert bool(whole.text) == bool(stream.response.text), "chat and stream do not agree on whether there is text"
        ends = {whole.finish_reason is None, stream.response.finish_reason is None}
        assert len(ends) == 1, "chat and stream do not agree on whether the end has a reason"

    def _client(self, backend: Backend) -> Client:
        return Client(backend=backend, model=self.model, retry=None, env={})

    async def _refused(self, backend: Backend, call: str, ask: Callable[[Client], Awaitable[object]]) -> None:
        refusal: UnsupportedError | None = None
        try:
            await ask(self._client(backend))
        except UnsupportedError as error:
            refusal = error
        assert refusal is not None, f"a backend without {call} is asked for it and nothing is said"
        assert refusal.field == call, f"the error for a missing {call} names {refusal.field!r}"


def _distance(one: object, two: object) -> float:
    return math.dist(one, two)  # type: ignore[arg-type]
