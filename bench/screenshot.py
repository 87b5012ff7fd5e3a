"""The picture of the server's page in the README: `python -m bench.screenshot [FILE [OPTION ...]]`.

A real run: `asyncllm serve` with the small local model, and further options of it if any are given; a browser that
chats with it; and a second client whose call is under way beside.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from asyncllm import Client
from bench.browser import open_browser
from bench.processes import ROOT

_FILE = ROOT / "docs" / "server.png"
_QUESTIONS = ("Write a Python function that adds two numbers.", "Tell me a story about a lighthouse.")


@asynccontextmanager
async def _server(options: Sequence[str]) -> AsyncGenerator[str]:
    command = [
        sys.executable,
        "-m",
        "asyncllm",
        "serve",
        "-m",
        "llamacpp:smollm2",
        "-m",
        "echo:x",
        "--port",
        "0",
        *options,
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None  # it was asked for above
        yield (await process.stdout.readline()).decode().strip().removesuffix("/v1")
    finally:
        process.terminate()
        await process.wait()


async def _draw(file: Path, options: Sequence[str]) -> None:
    async with (
        _server(options) as url,
        Client(model="openai:llamacpp:smollm2", base_url=f"{url}/v1", api_key="none") as client,
        open_browser() as browser,
    ):
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.goto(f"{url}/")
        await page.locator("#model-list input").first.wait_for(state="attached")
        await page.locator("#temperature").fill("0")
        await page.locator("#max_tokens").fill("120")
        await page.locator("#question").fill(_QUESTIONS[0])
        await page.keyboard.press("Enter")
        await page.locator(".answer button", has_text="Copy").wait_for(timeout=120_000)
        async with client.stream("Count from one to a thousand in words.", max_tokens=2000) as other:
            await anext(aiter(other))
            await page.locator("#max_tokens").fill("400")
            await page.locator("#question").fill(_QUESTIONS[1])
            await page.keyboard.press("Enter")
            await page.locator("#live li").nth(1).wait_for()
            await page.wait_for_function("document.querySelector('.turn:last-child .text').textContent.length > 250")
            await page.screenshot(path=file)
        await page.keyboard.press("Escape")


def main(arguments: Sequence[str]) -> None:
    """Draw it."""
    file = Path(arguments[0]) if arguments else _FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(_draw(file, arguments[1:]))
    print(f"{file}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
