"""What the routes of files, batches, sound, pictures and judging answer, as types: for the server's description."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from asyncllm.workspace.tenants import Status

__all__ = [
    "BatchObject", "BatchPage", "FileObject", "FilePage", "Judged", "Pictures", "Ranked", "Removed", "Text", "TokenIds",
    "Transcript",
]  # fmt: skip


class FileObject(Struct):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]


class FilePage(Struct):
    """A part of all files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Removed(Struct):
    """That a file is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class _Fault(Struct):
    code: str
    message: str
    line: int | None
    param: str | None


class _Faults(Struct):
    object: Literal["list"]
    data: list[_Fault]


class _Counts(Struct):
    total: int
    completed: int
    failed: int


class _Cached(Struct):
    cached_tokens: int


class _Thought(Struct):
    reasoning_tokens: int


class _Used(Struct):
    input_tokens: int
    input_tokens_details: _Cached
    output_tokens: int
    output_tokens_details: _Thought
    total_tokens: int


class BatchObject(Struct):
    """A batch, and how far it has come."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: _Faults | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    completed_at: int | None
    expired_at: int | None
    failed_at: int | None
    request_counts: _Counts
    metadata: dict[str, str] | None
    usage: _Used | UnsetType = UNSET


class BatchPage(Struct):
    """A part of all batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Transcript(Struct):
    """What was said. All but the text is there as far as it was asked for and is known."""

    text: str
    task: Literal["transcribe"] | UnsetType = UNSET
    language: str | UnsetType = UNSET
    duration: float | UnsetType = UNSET
    segments: list[dict[str, Any]] | UnsetType = UNSET
    words: list[dict[str, Any]] | UnsetType = UNSET
    usage: dict[str, Any] | UnsetType = UNSET


class _Picture(Struct):
    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    revised_prompt: str | UnsetType = UNSET


class _Kinds(Struct):
    text_tokens: int
    image_tokens: int


class _Painted(Struct):
    input_tokens: int
    input_tokens_details: _Kinds
    output_tokens: int
    total_tokens: int


class Pictures(Struct):
    """Pictures, each in base64 or by its address."""

    created: int
    data: list[_Picture]
    size: str | UnsetType = UNSET
    quality: str | UnsetType = UNSET
    output_format: str | UnsetType = UNSET
    usage: _Painted | UnsetType = UNSET


class _Verdict(Struct):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class Judged(Struct):
    """A verdict each."""

    id: str
    model: str
    results: list[_Verdict]


class _Document(Struct):
    text: str


class _Rank(Struct):
    index: int
    """In the documents as they were sent."""
    relevance_score: float
    document: _Document | UnsetType = UNSET


class _Read(Struct):
    prompt_tokens: int
    total_tokens: int


class Ranked(Struct):
    """Documents, the best first."""

    id: str
    model: str
    results: list[_Rank]
    usage: _Read | UnsetType = UNSET


class TokenIds(Struct):
    """The tokens of a text."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: None


class Text(Struct):
    """What tokens stand for."""

    prompt: str
