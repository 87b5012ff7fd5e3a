"""Calls beside chat, complete and embed: sound, pictures, moderation and ranking.

`calls` has the methods that `Client` inherits, `waiting` those of `sync.Client`; `options` are their keyword arguments,
which `requests` makes into what a backend is asked, and `streams` what comes piece by piece.
"""

from asyncllm.media_calls.calls import MediaCalls
from asyncllm.media_calls.options import (
    DubOptions,
    ImageOptions,
    IsolateOptions,
    MediaOptions,
    RerankOptions,
    SpeechOptions,
    TranscribeOptions,
    Upload,
    VideoOptions,
)
from asyncllm.media_calls.streams import ImageStream, MediaStream, SpeechStream
from asyncllm.media_calls.waiting import WaitingMedia, WaitingMediaCalls

__all__ = [
    "DubOptions",
    "ImageOptions",
    "ImageStream",
    "IsolateOptions",
    "MediaCalls",
    "MediaOptions",
    "MediaStream",
    "RerankOptions",
    "SpeechOptions",
    "SpeechStream",
    "TranscribeOptions",
    "Upload",
    "VideoOptions",
    "WaitingMedia",
    "WaitingMediaCalls",
]
