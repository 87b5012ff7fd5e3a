"""Transcripts in the forms that OpenAI's API has for them.

Source: https://platform.openai.com/docs/api-reference/audio (the transcription objects); SubRip and WebVTT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from asyncllm.errors import UnsupportedError
from asyncllm.media import Segment, Transcript, Word
from asyncllm.types import Usage

__all__ = ["write_transcript"]

_TOGETHER = 10
_PAUSE_S = 1.0
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS


def write_transcript(transcript: Transcript, form: str, *, model: str) -> dict[str, Any] | str:
    """The body that answers: a document for `json` and `verbose_json`, else a text.

    Raises `UnsupportedError` for subtitles of a transcript whose times nobody told.
    """
    if form == "text":
        return f"{transcript.text}\n"
    if form == "json":
        return {"text": transcript.text, **_usage(transcript.usage)}
    if form == "verbose_json":
        return _verbose(transcript)
    cues = [one for one in transcript.segments if _is_timed(one)] or _cues(transcript.words)
    if transcript.text.strip() and not cues:
        told = f"response_format: the model {model!r} does not tell times, which {form} has"
        raise UnsupportedError(told, field="response_format", model=model)
    return _subrip(cues) if form == "srt" else _webvtt(cues)


def _verbose(transcript: Transcript) -> dict[str, Any]:
    """What is known: a language or a duration that nobody told is left out."""
    wire: dict[str, Any] = {"task": "transcribe", "text": transcript.text}
    if transcript.language is not None:
        wire["language"] = transcript.language
    if transcript.duration_s is not None:
        wire["duration"] = transcript.duration_s
        wire["usage"] = {"type": "duration", "seconds": transcript.duration_s}
    if transcript.segments:
        raw = _raw_segments(transcript)
        wire["segments"] = [
            {**raw[at], **_timed(one.text, "text", one), "id": at} for at, one in enumerate(transcript.segments)
        ]
    if transcript.words:
        wire["words"] = [_timed(one.text, "word", one) for one in transcript.words]
    return wire


def _timed(text: str, name: str, stretch: Any) -> dict[str, Any]:
    told = {"start": stretch.start_s, "end": stretch.end_s, "speaker": stretch.speaker}
    return {name: text, **{field: value for field, value in told.items() if value is not None}}


def _raw_segments(transcript: Transcript) -> Sequence[dict[str, Any]]:
    """What the service tells of each segment beside its text and times, such as how sure it is."""
    body = transcript.raw
    raw: object = cast("dict[str, Any]", body).get("segments") if isinstance(body, dict) else None
    listed = cast("list[object]", raw) if isinstance(raw, list) else []
    if len(listed) == len(transcript.segments) and all(isinstance(one, dict) for one in listed):
        return cast("list[dict[str, Any]]", listed)
    nothing: dict[str, Any] = {}
    return [nothing] * len(transcript.segments)


def _usage(usage: Usage) -> dict[str, Any]:
    given, made = usage.input_tokens, usage.output_tokens
    if given is not None and made is not None:
        wire: dict[str, Any] = {
            "type": "tokens",
            "input_tokens": given,
            "output_tokens": made,
            "total_tokens": given + made,
        }
        if usage.input_audio_tokens is not None:
            audio = usage.input_audio_tokens
            wire["input_token_details"] = {"audio_tokens": audio, "text_tokens": max(0, given - audio)}
        return {"usage": wire}
    return {} if usage.audio_s is None else {"usage": {"type": "duration", "seconds": usage.audio_s}}


def _is_timed(stretch: Segment | Word) -> bool:
    return stretch.start_s is not None and stretch.end_s is not None


def _cues(words: Sequence[Word]) -> list[Segment]:
    """Words as they may be read together: of one speaker, without a pause, and not too many."""
    cues: list[list[Word]] = []
    for word in filter(_is_timed, words):
        last = cues[-1] if cues else []
        if not last or len(last) >= _TOGETHER or _is_apart(last[-1], word):
            cues.append([word])
        else:
            last.append(word)
    return [
        Segment(text=" ".join(one.text for one in cue), start_s=cue[0].start_s, end_s=cue[-1].end_s) for cue in cues
    ]


def _is_apart(before: Word, after: Word) -> bool:
    return before.speaker != after.speaker or (after.start_s or 0) - (before.end_s or 0) >= _PAUSE_S


def _subrip(cues: Sequence[Segment]) -> str:
    return "".join(f"{at}\n{_times(cue, ',')}\n{_one_line(cue)}\n\n" for at, cue in enumerate(cues, 1))


def _webvtt(cues: Sequence[Segment]) -> str:
    return "WEBVTT\n\n" + "".join(f"{_times(cue, '.')}\n{_one_line(cue)}\n\n" for cue in cues)


def _one_line(cue: Segment) -> str:
    """A cue ends with an empty line, and `-->` is what its times are known by."""
    return " ".join(cue.text.split()).replace("-->", "->")


def _times(cue: Segment, point: str) -> str:
    return f"{_time(cue.start_s or 0, point)} --> {_time(cue.end_s or 0, point)}"


def _time(seconds: float, point: str) -> str:
    ms = max(0, round(seconds * 1000))
    hours, rest = divmod(ms, _HOUR_MS)
    minutes, rest = divmod(rest, _MINUTE_MS)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
