"""`asyncllm chat` on a terminal: turn after turn, each with all that was said before.

The event loop runs while an answer comes, and rests at the prompt: so Ctrl-C means "stop this answer" in the one and
"end" in the other, and what is typed can be edited as in any other program. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from argparse import Namespace
from importlib import import_module

from asyncllm.calls import CallOptions
from asyncllm.cli.options import readable
from asyncllm.cli.output import Output, note, say, tell
from asyncllm.cli.signals import Signals
from asyncllm.cli.status import OK
from asyncllm.client import Client
from asyncllm.errors import APIError, ConfigError
from asyncllm.stream import Stream
from asyncllm.types import Message

__all__ = ["Conversation"]


class Conversation:
    """The turns so far, and what takes the next one."""

    def __init__(self, client: Client, options: CallOptions, output: Output, args: Namespace) -> None:
        self._client = client
        self._options = options
        self._output = output
        self._signals: Signals = args.signals
        self._debug: bool = args.debug
        self._quiet: bool = args.quiet
        self._messages: list[Message] = []
        self._stream: Stream | None = None

    def run(self) -> int:
        """Talk until the other side ends it, and return the exit status.

        Raises `KeyboardInterrupt` for Ctrl-C at the prompt, and the error of a call that no later turn can mend.
        """
        _edit_lines()
        if not self._quiet:
            note("/quit or Ctrl-D ends, Ctrl-C stops an answer")
        with asyncio.Runner() as runner:
            try:
                while (line := _ask()) is not None and line != "/quit":
                    if line:
                        self._turn(runner, line)
            finally:
                runner.run(self._client.aclose())
        return OK

    def _turn(self, runner: asyncio.Runner, text: str) -> None:
        said = Message("user", text)
        self._stream = None
        try:
            runner.run(self._answer(said))
        except KeyboardInterrupt:
            self._output.end_line()
            if self._signals.terminated:
                raise
        except APIError as error:
            # The next turn may go well. Wrong configuration is no APIError: it would fail each turn alike.
            self._output.end_line()
            tell(error, debug=self._debug)
        heard = self._stream.response.text if self._stream else ""
        if heard:
            # A turn without an answer is forgotten: models expect question and answer to alternate.
            self._messages += [said, Message("assistant", heard)]

    async def _answer(self, said: Message) -> None:
        self._stream = self._client.stream([*self._messages, said], **self._options)
        async with self._stream as stream:
            async for event in stream:
                self._output.event(event)
        self._output.rest(stream.response)


def _ask() -> str | None:
    """The next line, without spaces around it; `None` at the end of input."""
    while True:
        try:
            return readable(input("> ").strip(), "the line")
        except EOFError:
            say("")
            return None
        except (ConfigError, UnicodeDecodeError):
            note("that line is not UTF-8 text; it was not sent")


def _edit_lines() -> None:
    """Give `input` arrow keys and the history of this session, where Python was built with them."""
    with contextlib.suppress(ImportError):
        import_module("readline")  # which is what switches it on
