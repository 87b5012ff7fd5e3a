r"""Regular expressions as GBNF.

llama.cpp has no constraint by regular expression of its own, and the library that it can be built with ignores one
that it cannot read. Translated here, by the parser of Python's own `re`, every pattern means what Python's
`re.fullmatch(pattern, text, re.ASCII)` means, or is refused: look-around, back-references, `\b`, flags.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm_llamacpp.grammar import MAX_REPEAT, escape, literal

__all__ = ["regex_grammar"]

# The parser behind `re`. It has no public name, but one and the same form from Python 3.11 to 3.14.
_parser: Any = importlib.import_module("re._parser")

_Ranges: TypeAlias = list[tuple[int, int]]
_CATEGORIES: dict[str, _Ranges] = {
    "DIGIT": [(48, 57)],
    "SPACE": [(9, 13), (32, 32)],
    "WORD": [(48, 57), (65, 90), (95, 95), (97, 122)],
}
_STARTS, _ENDS = {"AT_BEGINNING", "AT_BEGINNING_STRING"}, {"AT_END", "AT_END_STRING"}


def regex_grammar(pattern: str) -> str:
    """A grammar of the texts that `pattern` matches whole.

    Raises `InvalidRequestError` for a pattern that is not one, `UnsupportedError` naming what GBNF cannot say.
    """
    try:
        tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        place = f" at position {error.pos}" if isinstance(error, re.error) and error.pos is not None else ""
        raise InvalidRequestError(f"the pattern is not a regular expression{place}", field="constraint") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise _unsupported("flags such as (?i)")
    return "root ::= " + _sequence(tree, first=True, last=True)


def _sequence(items: Iterable[tuple[Any, Any]], *, first: bool, last: bool) -> str:
    """`first` and `last` say whether the sequence stands at the start and the end of the whole pattern."""
    nodes = list(items)
    # The whole text is matched in any case, so anchors at its ends say nothing new.
    while nodes and first and str(nodes[0][0]) == "AT" and str(nodes[0][1]) in _STARTS:
        del nodes[0]
    while nodes and last and str(nodes[-1][0]) == "AT" and str(nodes[-1][1]) in _ENDS:
        del nodes[-1]
    parts = [
        _node(str(kind), value, first=first and position == 0, last=last and position == len(nodes) - 1)
        for position, (kind, value) in enumerate(nodes)
    ]
    return " ".join(parts) or '""'


def _node(kind: str, value: Any, *, first: bool, last: bool) -> str:
    match kind:
        case "LITERAL":
            return literal(chr(value))
        case "NOT_LITERAL":
            return _class(_complement([(value, value)]))
        case "ANY":
            return _class(_complement([(10, 10)]))
        case "IN":
            return _class(_ranges(value))
        case "BRANCH":
            return "(" + " | ".join(_sequence(one, first=first, last=last) for one in value[1]) + ")"
        case "SUBPATTERN":
            _, added, removed, inner = value
            if added or removed:
                raise _unsupported("flags such as (?i:...)")
            return "(" + _sequence(inner, first=first, last=last) + ")"
        case "MAX_REPEAT" | "MIN_REPEAT":  # greedy or not: the texts are the same
            return _repeat(*value)
        case _:
            raise _unsupported(_NAMES.get(kind, kind.lower()))


_NAMES = {
    "ASSERT": "look-ahead and look-behind",
    "ASSERT_NOT": "look-ahead and look-behind",
    "AT": r"anchors within the pattern and \b",
    "ATOMIC_GROUP": "atomic groups",
    "GROUPREF": "back-references",
    "GROUPREF_EXISTS": "conditional groups",
    "POSSESSIVE_REPEAT": "possessive quantifiers",
}


def _repeat(low: int, high: Any, inner: Any) -> str:
    item = "(" + _sequence(inner, first=False, last=False) + ")"
    endless = high is _parser.MAXREPEAT
    if low > MAX_REPEAT or (not endless and high > MAX_REPEAT):
        raise _unsupported(f"more than {MAX_REPEAT} repetitions")
    if endless:
        return item + {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return f"{item}{{{low},{high}}}"


def _ranges(members: Sequence[tuple[Any, Any]]) -> _Ranges:
    ranges: _Ranges = []
    negated = False
    for kind, value in members:
        match str(kind):
            case "NEGATE":
                negated = True
            case "LITERAL":
                ranges.append((value, value))
            case "RANGE":
                ranges.append(value)
            case "CATEGORY":
                name = str(value).removeprefix("CATEGORY_")
                known = _CATEGORIES.get(name.removeprefix("NOT_"))
                if known is None:
                    raise _unsupported(name.lower())
                ranges += _complement(known) if name.startswith("NOT_") else known
            case other:
                raise _unsupported(other.lower())
    return _complement(ranges) if negated else ranges


def _complement(ranges: _Ranges) -> _Ranges:
    result: _Ranges = []
    start = 1  # a text has no NUL
    for low, high in sorted(ranges):
        if low > start:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= sys.maxunicode:
        result.append((start, sys.maxunicode))
    return result


def _class(ranges: _Ranges) -> str:
    if not ranges:
        raise InvalidRequestError("the pattern has a character class that nothing matches", field="constraint")
    pairs = (escape(chr(low)) if low == high else f"{escape(chr(low))}-{escape(chr(high))}" for low, high in ranges)
    return f"[{''.join(pairs)}]"


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(f"a Regex cannot have {what} on the 'llamacpp' backend", field="constraint")
