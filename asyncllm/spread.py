"""Which member of a group is asked first, and who follows in case it fails.

Each member has a lot, an exponential draw at the rate of its weight, and the smallest comes first: as often as its
weight says. `weighted` draws anew for every call. `prefix` draws by a digest of the prompt's beginning and the member's
name, so the same beginning has the same lots in every process, and a member that goes or comes moves no beginning but
those that it has itself: weighted rendezvous hashing. A member that has a quarter more under way than its share gives
way to the next one.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from asyncllm.config import Group
from asyncllm.place import Target
from asyncllm.types import ContentPart, Message, Request, TextPart

__all__ = ["Member", "Spread", "beginning"]

_MOST_LOAD = 1.25
"""Times its share of the calls under way, above which a member takes no call for its beginning."""
_CHARACTERS = 4
"""Of a token, where a prompt is token ids."""
_EDGE_BYTES = 512
"""Of a picture or a document: its first and last ones and its size tell it from another."""


class Member(Struct, frozen=True):
    """One of a group."""

    name: str
    targets: Sequence[Target]
    """Its own places in order, at least one."""
    weight: float

    @property
    def load(self) -> int:
        """Calls that are under way there or stand in line."""
        limiter = self.targets[0].place.limiter
        return limiter.in_flight + limiter.waiting


class Spread:
    """Puts the members of one group in order."""

    def __init__(self, group: Group, members: Sequence[Member]) -> None:
        self._group = group
        self._members = members

    def order(self, request: Request | None) -> list[Target]:
        """Who is asked first, and who then, for a call of `request`; without one, nobody knows how a prompt begins."""
        lots = self._lots(request)
        now = asyncio.get_running_loop().time()
        away = {member.name for member in self._members if member.targets[0].place.is_away(now)}
        by_beginning = self._group.pick == "prefix" and request is not None
        full = self._full(away) if by_beginning else frozenset[str]()
        order = sorted(self._members, key=lambda one: (one.name in away, one.name in full, lots[one.name]))
        return [target for member in order for target in member.targets]

    def _lots(self, request: Request | None) -> dict[str, tuple[float, float]]:
        if self._group.pick == "least-busy":
            return {one.name: ((one.load + 1) / one.weight, random.random()) for one in self._members}
        if self._group.pick == "prefix" and request is not None:
            key = beginning(request, self._group.prefix_chars)
            return {one.name: (-math.log(_uniform(key, one.name)) / one.weight, 0.0) for one in self._members}
        return {one.name: (random.expovariate(one.weight), 0.0) for one in self._members}

    def _full(self, away: set[str]) -> frozenset[str]:
        """Members that would have far more than their share with one call more, of those that are not away."""
        there = [one for one in self._members if one.name not in away]
        loads = [one.load for one in there]
        share = _MOST_LOAD * (sum(loads) + 1) / (sum(one.weight for one in there) or 1.0)
        return frozenset(
            one.name for one, load in zip(there, loads, strict=True) if load >= math.ceil(share * one.weight)
        )


def beginning(request: Request, characters: int) -> bytes:
    """A digest of how the prompt begins: tools, then all up to the first turn of a user, `characters` at the most.

    It is the same in every process, and for every turn of one conversation.
    """
    digest = blake2b(digest_size=16)
    left = characters
    for text in _texts(request):
        piece = text[:left]
        digest.update(b"%d:" % len(piece))
        digest.update(piece.encode("utf-8", "surrogatepass"))
        left -= len(piece)
        if left <= 0:
            break
    return digest.digest()


def _texts(request: Request) -> Iterator[str]:
    """What the prompt consists of, in the order in which engines put it together."""
    if isinstance(request.prompt, str):
        yield request.prompt
        return
    if isinstance(request.prompt, tuple):
        yield from (f"{token:<{_CHARACTERS}}" for token in request.prompt)
        return
    for tool in request.tools:
        yield msgspec.json.encode(tool).decode()
    for message in request.messages:
        yield from _texts_of(message)
        if message.role == "user":
            return


def _texts_of(message: Message) -> Iterator[str]:
    yield message.role
    if isinstance(message.content, str):
        yield message.content
        return
    for part in message.content:
        yield part.text if isinstance(part, TextPart) else _told(part)


def _told(part: ContentPart) -> str:
    """A picture, a recording or a document, by a digest."""
    data: object = getattr(part, "data", None)
    if not isinstance(data, bytes):
        return str(getattr(part, "url", None) or getattr(part, "file_id", None))
    edges = blake2b(data[:_EDGE_BYTES] + data[-_EDGE_BYTES:], digest_size=16).hexdigest()
    return f"{len(data)} {edges}"


def _uniform(key: bytes, name: str) -> float:
    """A number between 0 and 1, neither of them, that the two say alone."""
    drawn = blake2b(name.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
    return ((int.from_bytes(drawn) >> 12) + 0.5) / 2**52
