"""The page of a server, in a real browser, and what it is sent with."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Route, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from asyncllm import Client, Finished, RateLimitError, ReasoningDelta, Request, TextDelta, UsageReport
from asyncllm.events import Event
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.page import FILES
from asyncllm.server.service import Service
from asyncllm.testing import Script, ScriptedBackend, Stall
from asyncllm.types import Usage
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from bench.browser import open_browser
from served import listening, served
from sse_cases import CASES

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script><iframe src="http://192.0.2.1/"></iframe>'
WIDE: Any = {"width": 1280, "height": 800}
PHONE: Any = {"width": 360, "height": 740}
WAIT_MS = 20_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    async with open_browser() as opened:
        yield opened


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncGenerator[Page]:
    """The page of the server at `url`. Leaving fails where it asked anybody else, or the browser has held it up."""
    asked: list[str] = []
    told: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            told.append(message.text)

    context = await browser.new_context(**options)
    try:
        page = await context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("console", listen)
        await page.goto(f"{url}/")
        yield page
    finally:
        await context.close()
    assert [one for one in asked if not one.startswith((f"{url}/", "data:"))] == []
    # The browser itself says of each reply that is an error that it is one.
    assert [one for one in told if not one.startswith("Failed to load resource")] == []


@asynccontextmanager
async def chatting(browser: Browser, *scripts: Script, **options: Any) -> AsyncGenerator[tuple[Page, ScriptedBackend]]:
    backend = ScriptedBackend(scripts)
    async with Client(backend=backend, retry=None) as client, served(client, models={"small": ""}) as url:
        async with opened(browser, url, **options) as page:
            await expect(page.locator("#chosen")).to_have_text("small")
            yield page, backend


async def ask(page: Page, text: str = "Hello") -> None:
    await page.locator("#question").fill(text)
    await page.locator("#question").press("Enter")


def answer(page: Page) -> Any:
    return page.locator(".answer .text").last


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_MS / 1000):
        while not condition():  # noqa: ASYNC110  # a backend tells nobody
            await asyncio.sleep(0.005)


class Speaker:
    """A backend that says what it is told, when it is told."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[Event | Exception] = asyncio.Queue()

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[AsyncIterator[Event]]:
        del request
        yield self._play()

    async def _play(self) -> AsyncGenerator[Event]:
        while True:
            event = await self.words.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def speaking(browser: Browser) -> AsyncGenerator[tuple[Page, Speaker]]:
    speaker = Speaker()
    async with (
        Client(backend=speaker) as client,
        served(client, models={"small": ""}) as url,
        opened(browser, url) as page,
    ):
        await expect(page.locator("#chosen")).to_have_text("small")
        yield page, speaker


# -- the chat


async def test_a_chat_streams_into_the_page_word_by_word(browser: Browser) -> None:
    async with speaking(browser) as (page, speaker):
        await ask(page)
        for word, so_far in (("one", "one"), (" two", "one two"), (" three", "one two three")):
            speaker.words.put_nowait(TextDelta(word))
            await expect(answer(page)).to_have_text(so_far)
        speaker.words.put_nowait(UsageReport(Usage(input_tokens=7, output_tokens=3)))
        speaker.words.put_nowait(Finished("stop"))
        facts = page.locator(".facts")
        await expect(facts).to_contain_text("small · 7 tokens in · 3 out · first token")
        await expect(page.locator("#question")).to_be_focused()


async def test_a_conversation_and_its_parameters_are_sent_and_a_new_one_begins_empty(browser: Browser) -> None:
    async with chatting(browser, [TextDelta("fine"), Finished("stop")]) as (page, backend):
        await page.locator("#system").fill("Be brief")
        await page.locator("#temperature").fill("0.5")
        await page.locator("#max_tokens").fill("64")
        await ask(page, "How are you?")
        await expect(page.locator(".answer button")).to_have_text("Copy")
        await ask(page, "Why?")
        await expect(page.locator(".answer button")).to_have_count(2)
        await page.get_by_role("button", name="New chat").click()
        await expect(page.locator(".turn")).to_have_count(0)
        await ask(page, "Again")
        await expect(page.locator(".answer button")).to_have_text("Copy")

    sent = [[(one.role, one.content) for one in request.messages] for request in backend.requests]
    assert sent[1] == [("system", "Be brief"), ("user", "How are you?"), ("assistant", "fine"), ("user", "Why?")]
    assert sent[2] == [("system", "Be brief"), ("user", "Again")]
    assert (backend.requests[0].sampling.temperature, backend.requests[0].sampling.max_tokens) == (0.5, 64)


@pytest.mark.parametrize("way", ["button", "Escape"])
async def test_stop_ends_the_work_on_the_server_and_what_there_was_stays(browser: Browser, way: str) -> None:
    async with chatting(browser, [TextDelta("one"), Stall()]) as (page, backend):
        await ask(page)
        await expect(answer(page)).to_have_text("one")
        assert (backend.opened, backend.closed) == (1, 0)
        if way == "button":
            await page.get_by_role("button", name="Stop").click()
        else:
            await page.keyboard.press(way)
        await until(lambda: backend.closed == 1)
        await expect(page.locator(".facts")).to_contain_text("stopped")
        await expect(answer(page)).to_have_text("one")
        await expect(page.locator("#send")).to_be_visible()


async def test_what_a_model_writes_stays_text(browser: Browser) -> None:
    script: Script = [
        ReasoningDelta(EVIL),
        TextDelta(f"{EVIL} **{EVIL}** `{EVIL}`\n```\n{EVIL}\n```"),
        Finished("stop"),
    ]
    async with chatting(browser, script) as (page, _):
        await page.evaluate(
            "addEventListener('securitypolicyviolation', (event) => console.error(event.violatedDirective))"
        )
        await ask(page, EVIL)
        await expect(page.locator(".answer button")).to_have_text("Copy")
        assert await page.locator(".asked").inner_text() == EVIL
        assert await page.locator("pre").inner_text() == EVIL
        assert (await page.locator(".text p").inner_text()).startswith(EVIL)
        assert await page.locator(".thought div").text_content() == EVIL
        assert await page.locator("#log :is(img, script, iframe)").count() == 0


async def test_the_browser_itself_refuses_markup_and_strangers(browser: Browser) -> None:
    with pytest.raises(AssertionError, match="192.0.2.1"):  # as in any test here where the page does such a thing
        async with chatting(browser, [Stall()]) as (page, _):
            refused = await page.evaluate(
                """async () => {
                    const refused = [];
                    addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                    try { document.body.innerHTML = "<p>x</p>"; } catch {}
                    await fetch("http://192.0.2.1/").catch(() => {});
                    const image = new Image();
                    const done = new Promise((resolve) => (image.onerror = resolve));
                    image.src = "http://192.0.2.1/x.png";
                    await done;
                    const script = document.createElement("script");
                    try { script.text = "window.ran = true"; } catch {}
                    document.body.setAttribute("style", "color: red");
                    await new Promise((resolve) => setTimeout(resolve));
                    return [window.ran, [...new Set(refused)].sort()];
                }"""
            )

    assert refused == [
        None,
        ["connect-src", "img-src", "require-trusted-types-for", "style-src-attr"],
    ]


async def test_an_error_is_shown_in_the_server_s_words_and_can_be_tried_again(browser: Browser) -> None:
    refusal = RateLimitError("slow down a little", status=429)
    async with chatting(browser, refusal, [TextDelta("now"), Finished("stop")]) as (page, _):
        await ask(page)
        await expect(page.get_by_role("alert").filter(has_text="slow down a little")).to_be_visible()
        await page.get_by_role("button", name="Try again").click()
        await expect(answer(page)).to_have_text("now")
        await expect(page.locator(".error")).to_have_count(0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RateLimitError("it broke", status=429), "it broke"),
        (ValueError("a mistake"), "The answer broke off before its end."),  # the server cuts the connection
    ],
    ids=["told", "cut"],
)
async def test_an_answer_that_breaks_off_says_so_and_what_came_stays(
    browser: Browser, error: Exception, told: str
) -> None:
    async with speaking(browser) as (page, speaker):
        await ask(page)
        speaker.words.put_nowait(TextDelta("half"))
        await expect(answer(page)).to_have_text("half")
        speaker.words.put_nowait(error)
        await expect(page.locator(".error")).to_have_text(told)
        await expect(answer(page)).to_have_text("half")


async def test_a_parameter_that_cannot_be_is_shown_and_nothing_sent(browser: Browser) -> None:
    async with chatting(browser, [Stall()], viewport=PHONE) as (page, backend):
        await page.get_by_role("button", name="Models", exact=True).click()
        await page.get_by_label("Max tokens").fill("-1")
        await page.get_by_role("button", name="Chat", exact=True).click()
        await ask(page)
        await expect(page.get_by_label("Max tokens")).to_be_focused()
        assert backend.opened == 0


async def test_a_screen_reader_is_told_each_sentence_once(browser: Browser) -> None:
    text = "One is one. Two is two. Three"
    async with chatting(browser, [TextDelta(text), Finished("stop")]) as (page, _):
        await page.evaluate(
            """() => {
                window.said = [];
                const region = document.getElementById("said");
                const tell = () => region.textContent && said.push(region.textContent);
                new MutationObserver(tell).observe(region, {childList: true});
            }"""
        )
        await ask(page)
        await expect(page.locator(".answer button")).to_have_text("Copy")
        assert await page.evaluate("said.join(' ')") == f"{text} Answer complete."
        assert await page.locator("#log").get_attribute("aria-live") is None


# -- the key


async def test_a_key_is_asked_for_and_used_and_forgotten_with_the_page(browser: Browser, tmp_path: Path) -> None:
    async with (
        ServerStore(tmp_path) as store,
        Client(backend=ScriptedBackend([[TextDelta("open"), Finished("stop")]])) as client,
        served(client, store=store, models={"small": ""}, needs_key=True) as url,
        opened(browser, url) as page,
    ):
        _, token = await store.keys.add("page", grants=Grants(scopes=("calls", "files")))
        field = page.get_by_label("Key", exact=True)
        await expect(field).to_be_focused()
        assert await field.get_attribute("type") == "password"
        await field.fill("al_wrong")
        await field.press("Enter")
        await expect(page.locator("#key-why")).to_contain_text("not known here")
        await field.fill(token)
        await field.press("Enter")
        await expect(page.locator("#chosen")).to_have_text("small")
        await ask(page)
        await expect(answer(page)).to_have_text("open")
        kept = await page.evaluate(
            "[...Object.values(sessionStorage), ...Object.values(localStorage), location.href].join()"
        )
        assert token not in kept

        await page.reload()
        await field.fill(token)
        await page.get_by_label("Remember it").check()
        await field.press("Enter")
        await expect(page.locator("#chosen")).to_have_text("small")
        await page.reload()
        await expect(page.locator("#chosen")).to_have_text("small")


# -- the server


async def test_live_requests_are_shown_and_go(browser: Browser) -> None:
    async with chatting(browser, [TextDelta("one"), Stall()], viewport=WIDE) as (page, _):
        await ask(page)
        await expect(page.locator("#live li")).to_contain_text("/v1/chat/completions")
        await page.keyboard.press("Escape")
        await expect(page.locator("#live li")).to_have_count(0)
        await expect(page.locator("#no-live")).to_have_text("Nothing is under way.")


async def test_of_many_live_requests_the_first_are_shown_until_all_are_asked_for(browser: Browser) -> None:
    call = {"tenant": "local", "key": "", "route": "/v1/messages", "input_tokens": 1, "output_tokens": 0, "began_at": 0}
    calls = [{"id": str(at), "model": f"m{at}", **call} for at in range(8)]
    async with chatting(browser, [Stall()], viewport=WIDE) as (page, _):
        await page.route("**/server/live", lambda route: route.fulfill(json={"object": "list", "data": calls}))
        await expect(page.locator("#live li")).to_have_count(3)
        await page.get_by_role("button", name="Show all 8").click()
        await expect(page.locator("#live li")).to_have_count(8)
        await page.get_by_role("button", name="Show fewer").click()
        await expect(page.locator("#live li")).to_have_count(3)


async def test_usage_and_batches_are_shown_and_a_batch_cancelled(browser: Browser) -> None:
    batch = {"id": "batch_1", "status": "in_progress", "request_counts": {"total": 200, "completed": 50, "failed": 1}}
    hour = {"tenant": "north", "key": "k1", "name": EVIL, "model": "small", "hour": "2026-01-01T00:00:00Z"}
    used = {"requests": 2, "failures": 1, "input_tokens": 1000, "output_tokens": 500, "cost_usd": 0.25, "unpriced": 0}

    async def tell(route: Route) -> None:
        address = route.request.url
        if address.endswith("/cancel"):
            assert route.request.method == "POST"
            batch["status"] = "cancelling"
            await route.fulfill(json=batch)
        else:
            data: list[Any] = [batch] if "batches" in address else [{**hour, **used}, {**hour, **used}]
            await route.fulfill(json={"object": "list", "data": data})

    async with chatting(browser, [Stall()], viewport=WIDE) as (page, _):
        await page.route("**/v1/batches**", tell)
        await page.route("**/server/usage?since=*", tell)
        await page.reload()
        usage = page.locator("#usage li")
        await expect(usage).to_have_count(1)
        assert (await usage.inner_text()).split("\n") == [
            EVIL, "$0.5000", "north · 4 requests, 2 failed · 2,000 tokens in · 1,000 out",
        ]  # fmt: skip
        progress = page.get_by_role("progressbar")
        assert await progress.evaluate("(bar) => [bar.value, bar.max]") == [51, 200]
        await expect(page.locator("#batches .small")).to_have_text("50 of 200 done, 1 failed")
        await page.get_by_role("button", name="Cancel").click()
        assert batch["status"] == "in_progress"
        await page.get_by_role("button", name="Really cancel?").click()
        await expect(page.locator("#batches .figure")).to_have_text("cancelling")
        await expect(page.locator("#batches button")).to_be_hidden()


async def test_a_store_s_usage_and_batches_are_in_the_page(browser: Browser, tmp_path: Path) -> None:
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "small", "messages": [{"role": "user", "content": "one"}]}
    backend = ScriptedBackend(
        [[TextDelta("hi"), UsageReport(Usage(input_tokens=7, output_tokens=3)), Finished("stop")], Stall()]
    )
    async with (
        ServerStore(tmp_path) as store,
        Client(backend=backend) as client,
        served(client, store=store, models={"small": ""}) as url,
        aiohttp.ClientSession() as http,
    ):
        async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
            assert reply.status == 200
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", json.dumps({**row, "body": body}), filename="rows.jsonl")
        async with http.post(f"{url}/v1/files", data=form) as reply:
            asked = {"input_file_id": (await reply.json())["id"], "endpoint": row["url"], "completion_window": "24h"}
        async with http.post(f"{url}/v1/batches", json=asked) as reply:
            id_ = (await reply.json())["id"]
        async with opened(browser, url, viewport=WIDE) as page:
            told = page.locator("#usage .small")
            await expect(told).to_contain_text("local · 1 request · 7 tokens in · 3 out")
            batch = page.locator("#batches li")
            await expect(batch).to_contain_text(id_)
            await batch.get_by_role("button", name="Cancel").click()
            await batch.get_by_role("button", name="Really cancel?").click()
            await expect(batch.locator(".figure")).to_contain_text("cancel")
            async with http.get(f"{url}/v1/batches/{id_}") as reply:
                assert (await reply.json())["status"] in {"cancelling", "cancelled"}


async def test_what_the_server_does_not_keep_is_said_and_not_asked_again(browser: Browser) -> None:
    async with chatting(browser, [Stall()], viewport=WIDE) as (page, _):
        asked = 0

        async def tell(route: Route) -> None:
            nonlocal asked
            asked += 1
            await route.fulfill(status=501, json={"error": {"message": "no"}})

        await page.route("**/v1/batches**", tell)
        await page.reload()
        await expect(page.locator("#no-batches")).to_have_text("Not kept by this server.")
        for _ in range(3):
            await page.evaluate("document.dispatchEvent(new Event('viewchange'))")
        await expect(page.locator("#no-live")).to_be_visible()
        assert asked == 1


async def test_it_works_below_a_path(browser: Browser) -> None:
    settings = ServerSettings(models={"small": "echo:x"})
    async with Client(model="echo:x") as client:
        service = Service(client, settings, None)
        application = Starlette(routes=[Mount("/of/llm", application_of(service))])
        async with (
            service,
            listening(application, settings) as url,
            opened(browser, f"{url}/of/llm") as page,
        ):
            await expect(page.locator("#chosen")).to_have_text("small")
            await ask(page, "one two")
            await expect(answer(page)).to_have_text("one two")


# -- for everybody


async def test_everything_is_reached_and_done_with_the_keyboard_alone(browser: Browser) -> None:
    async with (
        Client(model="echo:x") as client,
        served(client, models={"first": "echo:x", "second": "echo:y"}) as url,
        opened(browser, url, viewport=WIDE) as page,
    ):
        keys = page.keyboard
        await expect(page.locator("#chosen")).to_have_text("first")
        await expect(page.locator("#question")).to_be_focused()
        await keys.type("one")
        await keys.press("Shift+Enter")
        await keys.type("two")
        assert await page.locator("#question").input_value() == "one\ntwo"
        await keys.press("Enter")
        await expect(page.locator(".answer button")).to_have_text("Copy")

        await page.evaluate("document.activeElement.blur()")
        await page.locator(".skip").focus()
        seen: list[str] = []
        for _ in range(13):
            name, ring = await page.evaluate(
                """() => {
                    const here = document.activeElement;
                    return [here.id || here.value || here.textContent.trim(), getComputedStyle(here).outlineStyle];
                }"""
            )
            assert ring != "none", name
            seen.append(name)
            await keys.press("Tab")

        assert seen == [
            "Skip to the message", "use-key", "theme", "first", "system", "temperature", "top_p", "max_tokens",
            "clear", "log", "Copy", "question", "send",
        ]  # fmt: skip

        await page.locator("#model-list input").first.focus()
        await keys.press("ArrowDown")
        await expect(page.locator("#chosen")).to_have_text("second")
        await page.locator("#theme").focus()
        await keys.press("Enter")
        await expect(page.locator("#theme")).to_have_text("Theme: light")
        await page.locator("#use-key").focus()
        await keys.press("Enter")
        await expect(page.locator("#key")).to_be_visible()
        await keys.press("Escape")
        await expect(page.locator("#key")).to_be_hidden()


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser) -> None:
    long = "x" * 400
    async with chatting(
        browser,
        [ReasoningDelta(long), TextDelta(f"{long}\n```\n{long}\n```\n`{long}`"), Finished("stop")],
        viewport=PHONE,
        has_touch=True,
        is_mobile=True,
    ) as (page, _):
        await ask(page, long)
        await expect(page.locator(".answer button")).to_have_text("Copy")
        for view in ("Models", "Chat", "Server"):
            await page.get_by_role("button", name=view, exact=True).click()
            await expect(page.get_by_role("button", name=view, exact=True)).to_have_attribute("aria-current", "page")
            wide = await page.evaluate(
                """() => [...document.querySelectorAll("body, body *:not(pre, .hidden, .extra, .skip)")]
                    .filter((one) => one.getBoundingClientRect().right > 360.5 || one.scrollWidth > one.clientWidth + 1
                        && getComputedStyle(one).overflowX !== "visible" && one.clientWidth)
                    .map((one) => one.id || one.className || one.tagName)"""
            )
            assert wide == []
            assert await page.evaluate("document.documentElement.scrollWidth") == 360


CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const parts = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = (color) => {
        const [r, g, b] = [...parts(color)].map((one) => one / 255)
            .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (parts(color)[3] === 255) return color;
        }
        return "white";
    };
    const found = [];
    const check = (one, color, name) => {
        const [a, b] = [light(color), light(behind(one))].sort((x, y) => y - x);
        found.push([name, (a + 0.05) / (b + 0.05)]);
    };
    for (const one of document.querySelectorAll("body *")) {
        if (!one.checkVisibility({visibilityProperty: true})) continue;
        const name = one.id || one.className || one.tagName;
        const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (hasText) check(one, getComputedStyle(one).color, name);
        if (one.placeholder) check(one, getComputedStyle(one, "::placeholder").color, `${name}'s placeholder`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_in_both_colours(browser: Browser, scheme: str) -> None:
    said: Script = [ReasoningDelta("hm"), TextDelta("so `it` **is**\n```\ncode\n```"), RateLimitError("no", status=429)]
    backs: list[str] = []
    async with chatting(browser, said, color_scheme=scheme, viewport=WIDE) as (page, _):
        await ask(page)
        await expect(page.locator(".error")).to_be_visible()
        await page.locator("summary").click()
        found = await page.evaluate(CONTRAST)
        await page.locator("#use-key").click()
        found += await page.evaluate(CONTRAST)
        await page.keyboard.press("Escape")
        for theme in ("auto", "light", "dark"):
            await expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")
            backs.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await page.locator("#theme").click()

    assert len(found) > 60
    assert [one for one in found if one[1] < 4.5] == []
    system, light, dark = backs
    assert system == {"light": light, "dark": dark}[scheme]
    assert light != dark


# -- what it is made of


async def test_the_reader_of_events_is_the_standard_s_wherever_they_are_split(browser: Browser) -> None:
    cases = [(base64.b64encode(case.data).decode(), [text for _, text, _ in case.events]) for case in CASES]
    async with chatting(browser, [Stall()]) as (page, _):
        wrong = await page.evaluate(
            """async (cases) => {
                const { EventReader } = await import(new URL("page/sse.js", document.baseURI));
                const read = (...pieces) => {
                    const reader = new EventReader();
                    return JSON.stringify(pieces.flatMap((piece) => reader.feed(piece)));
                };
                const wrong = [];
                for (const [coded, expected] of cases) {
                    const bytes = Uint8Array.from(atob(coded), (one) => one.charCodeAt(0));
                    const known = JSON.stringify(expected);
                    const step = Math.max(1, Math.floor(bytes.length / 200));
                    for (let cut = 0; cut <= bytes.length; cut += step) {
                        const found = read(bytes.slice(0, cut), bytes.slice(cut));
                        if (found !== known) wrong.push([coded, cut, found]);
                    }
                    const singly = read(...[...bytes].map((one) => Uint8Array.of(one)));
                    if (singly !== known) wrong.push([coded, "singly", singly]);
                }
                return wrong;
            }""",
            cases,
        )

    assert wrong == []


async def test_its_files_are_small_and_sent_once_and_guarded() -> None:
    async with (
        Client(model="echo:x") as client,
        served(client) as url,
        aiohttp.ClientSession() as http,
    ):
        size = 0
        for path in ("", *(f"page/{name}" for name in FILES)):
            async with http.get(f"{url}/{path}") as reply:
                size += len(await reply.read())
                headers = reply.headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
            assert "unsafe" not in policy
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
            async with http.get(f"{url}/{path}", headers={"if-none-match": f'"x", W/{headers["etag"]}'}) as again:
                assert (again.status, await again.read()) == (304, b"")
        async with http.get(f"{url}/page/__init__.py") as missing:
            assert (missing.status, json.loads(await missing.read())["error"]["code"]) == (404, "no_route")

    assert size < 42_000
