"""A server's own words made fit for people and logs: on one line, short, and without what they echo of a request."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["redact", "scrub"]

_TEXT_LIMIT = 500
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")  # a terminal or a log would obey them
_ECHO_WHOLE = 4  # characters from which a text of the prompt is blanked out where it stands whole
_ECHO_LENGTH = 12  # characters in a row that a server text may share with the prompt by chance
_SECRET = re.compile(
    r"""
    \b(?:sk[-_]|al_|gsk_|hf_|xai-)[A-Za-z0-9_*.-]{6,}  # keys, also where all but their ends is starred out
    | \bAKIA[0-9A-Z]{8,} | \beyJ[A-Za-z0-9_-]{8,}[A-Za-z0-9_.-]*
    | \b(?i:(?:proxy-)?authorization|(?:x-)?(?:goog-)?api-key|set-cookie|cookie)["']?\s*[:=]\s*["']?
      (?i:(?:bearer|basic)\s+)?[^\s"',;]+
    | \b(?i:bearer|basic)\s+(?=\S*[0-9=*])[^\s"',;]+
    | \b[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]+  # addresses say where calls go, and may hold a key
    | \b(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]+)?|localhost:[0-9]+)\b
    """,
    re.VERBOSE,
)


def redact(message: str) -> str:
    """`message` without what is written like a key, a header that has one, or an address, whoever they are of."""
    return _SECRET.sub("***", message)


def scrub(message: str, private_texts: Iterable[str], secrets: Iterable[str]) -> str:
    """`message` on one line, at most 500 characters, without any secret and what it repeats of private texts."""
    text = _one_line(message)[: 2 * _TEXT_LIMIT]
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, "***")
    for private in private_texts:
        text = _blank_out(text, _one_line(private))
    return text if len(text) <= _TEXT_LIMIT else f"{text[: _TEXT_LIMIT - 1]}…"


def _one_line(text: str) -> str:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # without halves of characters
    return " ".join(whole.translate(_CONTROLS).split())


def _blank_out(text: str, private: str) -> str:
    """Replace what `text` shares with `private`: the whole of it, or any run of a dozen characters."""
    if len(private) >= _ECHO_WHOLE and private in text:
        text = text.replace(private, "…")
    if len(private) < _ECHO_LENGTH:
        return text
    kept: list[str] = []
    position = 0
    while position < len(text):
        end = position + _ECHO_LENGTH
        if end <= len(text) and text[position:end] in private:
            while end < len(text) and text[position : end + 1] in private:
                end += 1
            kept.append("…")
            position = end
        else:
            kept.append(text[position])
            position += 1
    return "".join(kept)
