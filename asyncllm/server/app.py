"""The application: its routes, and what they share."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asyncllm.client import Client
from asyncllm.dialect.faults import write_error
from asyncllm.errors import APIStatusError
from asyncllm.server.anthropic.messages import CountTokens, Messages
from asyncllm.server.models import Served
from asyncllm.server.openai.embeddings import Embeddings
from asyncllm.server.openai.generation import Chats, Completions
from asyncllm.server.openai.health import Health, Ready, Version
from asyncllm.server.openai.models import Model, Models
from asyncllm.server.settings import ServerSettings
from asyncllm.watchdog import Watchdog

__all__ = ["app"]


def app(client: Client, settings: ServerSettings = ServerSettings()) -> Starlette:
    """An ASGI application that answers in OpenAI's API and Anthropic's with `client`, which its caller closes.

        application.mount("/llm", asyncllm.server.app(client))

    Requests choose among `settings.models`, and nothing else of where their calls go or by which key.

    Raises `ConfigError` where a model is not there.
    """
    served = Served(client, settings.models)
    dog = Watchdog()
    created = int(time.time())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", Chats(client, served, settings, dog), methods=["POST"]),
            Route("/v1/completions", Completions(client, served, settings, dog), methods=["POST"]),
            Route("/v1/messages", Messages(client, served, settings, dog), methods=["POST"]),
            Route("/v1/messages/count_tokens", CountTokens(client, served, settings), methods=["POST"]),
            Route("/v1/embeddings", Embeddings(client, served, settings), methods=["POST"]),
            Route("/v1/models", Models(served, created), methods=["GET"]),
            Route("/v1/models/{id:path}", Model(served, created), methods=["GET"]),
            Route("/health", Health(), methods=["GET"]),
            Route("/ready", Ready(client, served), methods=["GET"]),
            Route("/version", Version(), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _without_route},
    )


def _without_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = APIStatusError(f"there is no such route: {error.detail}", status=error.status_code, code="no_route")
    return JSONResponse(write_error(told), error.status_code, error.headers)
