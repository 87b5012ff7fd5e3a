"""Writes a file again and again until it is killed: `python place_writer.py PATH`.

Each content is a letter that fills it whole, so that a torn one shows. A dot goes to the standard output before each.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from asyncllm.batch.places import place_of

SIZE = 3_000_000


async def main(path: str) -> None:
    for letter in itertools.cycle(b"abcdefghij"):
        print(".", end="", flush=True)
        async with place_of(path).write(overwrite=True) as write:
            for _ in range(30):
                await write(bytes([letter]) * (SIZE // 30))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
