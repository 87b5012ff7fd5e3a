"""The picture of the server's page in the README: `python -m bench.screenshot [FILE]`.

A real run: `asyncllm serve` with the small local model and a store; two keys that have been used, a batch at work, a
call of another client under way, and a browser that chats. With the fonts Inter and JetBrains Mono installed (Debian's
fonts-inter and fonts-jetbrains-mono) it looks as in the README.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from openai import AsyncOpenAI
from playwright.async_api import Browser

from asyncllm.workspace.served import ServerStore
from bench.browser import open_browser
from bench.processes import ROOT

__all__ = ["draw"]

_FILE = ROOT / "docs" / "server.png"
_MODEL = "llamacpp:smollm2"
_KEYS = {"research": 3, "night report": 2}
"""Keys, and the calls that are made with each."""
_ROWS = 100
_QUESTIONS = ("Write a Python function that adds two numbers.", "Tell me a story about a lighthouse.")


async def draw(file: Path) -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder:
        async with ServerStore(folder) as store:
            tokens = {name: (await store.keys.add(name))[1] for name in _KEYS}
        async with _server("--store", folder) as url, _sdk(url, "none") as sdk, open_browser() as browser:
            for name, calls in _KEYS.items():
                async with _sdk(url, tokens[name]) as other:
                    for _ in range(calls):
                        await other.completions.create(model=_MODEL, prompt="The colour of the sky is", max_tokens=20)
            await _take(browser, url, sdk, file)


@asynccontextmanager
async def _server(*options: str) -> AsyncGenerator[str]:
    command = [sys.executable, "-m", "asyncllm", "serve", "-m", _MODEL, "-m", "echo:x", "--port", "0", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None  # it was asked for above
        yield (await process.stdout.readline()).decode().strip().removesuffix("/v1")
    finally:
        process.terminate()
        await process.wait()


def _sdk(url: str, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=key)


async def _start_batch(sdk: AsyncOpenAI) -> None:
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 12}
    row = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    rows = b"\n".join(msgspec.json.encode({"custom_id": str(at), **row}) for at in range(_ROWS))
    file = await sdk.files.create(file=("rows.jsonl", rows), purpose="batch")
    await sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def _take(browser: Browser, url: str, sdk: AsyncOpenAI, file: Path) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    await page.goto(f"{url}/")
    await page.locator("#model-list input").first.wait_for(state="attached")
    await page.locator("#temperature").fill("0")
    await page.locator("#max_tokens").fill("120")
    await page.locator("#question").fill(_QUESTIONS[0])
    await page.keyboard.press("Enter")
    await page.locator(".answer button", has_text="Copy").wait_for(timeout=120_000)
    await _start_batch(sdk)
    async with await sdk.completions.create(model=_MODEL, prompt="Once upon a time", max_tokens=1500, stream=True):
        await page.locator("#max_tokens").fill("400")
        await page.locator("#question").fill(_QUESTIONS[1])
        await page.keyboard.press("Enter")
        await page.locator("#live li").nth(1).wait_for()
        words = page.locator(".answer .text").last.filter(has_text=re.compile(r".{250}", re.DOTALL))
        await words.wait_for(timeout=120_000)
        await page.screenshot(path=file)
    await page.keyboard.press("Escape")


def main(arguments: Sequence[str]) -> None:
    """Draw it, and say where it is."""
    file = Path(arguments[0]) if arguments else _FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(file))
    print(f"{file}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
