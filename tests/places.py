"""Whole contents, read from places and written to them."""

from __future__ import annotations

from asyncllm.batch.places import Place

__all__ = ["content_of", "put"]


async def content_of(place: Place) -> bytes:
    async with place.read() as pieces:
        return b"".join([piece async for piece in pieces])


async def put(place: Place, *pieces: bytes, overwrite: bool = False) -> None:
    async with place.write(overwrite=overwrite) as write:
        for piece in pieces:
            await write(piece)
