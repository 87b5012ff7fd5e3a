"""GBNF, llama.cpp's notation for grammars: written for a choice, and checked before llama.cpp sees it.

llama.cpp reports a grammar that it cannot read as "failed to parse grammar", after printing the reason and the whole
grammar on stderr. Checked here, the error says what is wrong and nothing is printed. What this check refuses,
llama.cpp refuses too.

Source: https://github.com/ggml-org/llama.cpp/tree/master/grammars and src/llama-grammar.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from asyncllm.errors import InvalidRequestError, UnsupportedError

__all__ = ["MAX_REPEAT", "check_grammar", "choice_grammar", "escape", "literal"]

MAX_REPEAT = 2000
"""Repetitions of one item that llama.cpp takes at most."""


def choice_grammar(options: Sequence[str]) -> str:
    """A grammar of exactly these texts."""
    return "root ::= " + " | ".join(map(literal, options))


def literal(text: str) -> str:
    """`text` as a GBNF literal."""
    return '"' + "".join(map(escape, text)) + '"'


def escape(character: str) -> str:
    """One character, as literals and classes take it."""
    code = ord(character)
    if character.isascii() and (character.isalnum() or character == " "):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def check_grammar(grammar: str) -> None:
    """Raise `InvalidRequestError` naming the line where `grammar` cannot be read as GBNF.

    Raises `UnsupportedError` for Lark (`%llguidance`): a mistake in it makes llama.cpp ignore the grammar unseen.
    """
    if grammar.lstrip().startswith("%llguidance"):
        raise UnsupportedError(
            "a Lark grammar cannot be checked, and llama.cpp ignores one with a mistake in it: write it in GBNF",
            field="constraint",
        )
    _Check(grammar).rules()


_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_CHARACTER = r"(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\[^xuU]|[^\\%s])"
_LITERAL = re.compile('"' + _CHARACTER % '"' + '*"', re.DOTALL)
_CLASS = re.compile(r"\[" + _CHARACTER % r"\]" + r"*\]", re.DOTALL)
_TOKEN = re.compile(r"!?<[^>]*>")
_COUNT = re.compile(r"\{[ \t\r\n]*([0-9]+)[ \t\r\n]*(?:,[ \t\r\n]*([0-9]*)[ \t\r\n]*)?\}")


class _Check:
    """A recursive descent over the text that keeps nothing but names."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._defined: set[str] = set()
        self._used: dict[str, int] = {}

    def rules(self) -> None:
        self._take(_SPACE_AND_LINES)
        while self._at < len(self._text):
            self._rule()
            self._take(_SPACE_AND_LINES)
        if "root" not in self._defined:
            raise InvalidRequestError("the grammar has no rule named root", field="constraint")
        for name, place in self._used.items():
            if name not in self._defined:
                self._at = place
                raise self._wrong("a rule that is used and not defined")

    def _rule(self) -> None:
        name = self._take(_NAME)
        if name is None:
            raise self._wrong("the name of a rule is expected (letters, digits and '-')")
        self._take(_SPACE)
        if not self._text.startswith("::=", self._at):
            raise self._wrong("'::=' is expected")
        self._at += 3
        self._take(_SPACE_AND_LINES)
        self._alternatives(_SPACE)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            raise self._wrong("the rule should end here")
        self._defined.add(name)

    def _alternatives(self, space: re.Pattern[str]) -> None:
        self._sequence(space)
        while self._text.startswith("|", self._at):
            self._at += 1
            self._take(_SPACE_AND_LINES)
            self._sequence(space)

    def _sequence(self, space: re.Pattern[str]) -> None:
        can_repeat = False
        while self._at < len(self._text):
            start = self._at
            character = self._text[start]
            if character in "*+?{":
                if not can_repeat:
                    raise self._wrong("there is nothing to repeat")
                self._repetition()
            elif character == "(":
                self._at += 1
                self._take(_SPACE_AND_LINES)
                self._alternatives(_SPACE_AND_LINES)
                if not self._text.startswith(")", self._at):
                    raise self._wrong("')' is expected")
                self._at += 1
            elif character == ".":
                self._at += 1
            elif (pattern := _ITEMS.get(character)) is not None:
                if self._take(pattern) is None:
                    raise self._wrong("this text, class or token does not end or has a bad escape")
            elif (name := self._take(_NAME)) is not None:
                self._used.setdefault(name, start)
            else:
                return
            can_repeat = True
            self._take(space)

    def _repetition(self) -> None:
        if self._text[self._at] != "{":
            self._at += 1
            return
        count = _COUNT.match(self._text, self._at)
        if count is None:
            raise self._wrong("a count is {2}, {2,} or {2,5}")
        if any(int(number) > MAX_REPEAT for number in count.groups() if number):
            raise self._wrong(f"a count is {MAX_REPEAT} at most")
        self._at = count.end()

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _wrong(self, what: str) -> InvalidRequestError:
        before = self._text[: self._at]
        line, column = before.count("\n") + 1, self._at - before.rfind("\n")
        return InvalidRequestError(f"the grammar, line {line}, column {column}: {what}", field="constraint")


_ITEMS = {'"': _LITERAL, "[": _CLASS, "<": _TOKEN, "!": _TOKEN}
