"""The application: its routes, and what they share."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asyncllm.client import Client
from asyncllm.dialect.faults import write_error
from asyncllm.errors import APIStatusError
from asyncllm.server.anthropic.messages import CountTokens, Messages
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.openai.description import Description
from asyncllm.server.openai.embeddings import Embeddings
from asyncllm.server.openai.generation import Chats, Completions
from asyncllm.server.openai.health import Health, Ready, Version
from asyncllm.server.openai.models import Model, Models
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.served import ServerStore

__all__ = ["app", "application_of"]

_ROUTES: tuple[tuple[str, str, type[Endpoint]], ...] = (
    ("POST", "/v1/chat/completions", Chats),
    ("POST", "/v1/completions", Completions),
    ("POST", "/v1/embeddings", Embeddings),
    ("GET", "/v1/models", Models),
    ("GET", "/v1/models/{id:path}", Model),
    ("POST", "/v1/messages", Messages),
    ("POST", "/v1/messages/count_tokens", CountTokens),
    ("GET", "/health", Health),
    ("GET", "/ready", Ready),
    ("GET", "/version", Version),
)


def app(client: Client, settings: ServerSettings = ServerSettings(), *, store: ServerStore | None = None) -> Starlette:
    """An ASGI application that answers in OpenAI's API and Anthropic's with `client`, which its caller closes.

        application.mount("/llm", asyncllm.server.app(client))

    Requests choose among `settings.models`, and nothing else of where their calls go or by which key. `store` has the
    keys of callers and what they have used; whoever gives it opens and closes it.

    Raises `ConfigError` where a model is not there, or where keys are needed and there is no store of them.
    """
    return application_of(Service(client, settings, store))


def application_of(service: Service) -> Starlette:
    """The same of a service that is there already."""
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in _endpoints(service)],
        exception_handlers={HTTPException: _without_route},
    )


def _endpoints(service: Service) -> list[tuple[str, str, Endpoint]]:
    described = ("GET", "/openapi.json", Description)
    made: list[tuple[str, str, Endpoint]] = [(method, path, endpoint(service)) for method, path, endpoint in _ROUTES]
    return [*made, (*described[:2], Description(service, [*_ROUTES, described]))]


def _without_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = APIStatusError(f"there is no such route: {error.detail}", status=error.status_code, code="no_route")
    return JSONResponse(write_error(told), error.status_code, error.headers)
