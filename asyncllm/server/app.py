"""The application: its routes, and what they share."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from asyncllm.client import Client
from asyncllm.dialect.faults import write_error
from asyncllm.errors import APIStatusError
from asyncllm.server.anthropic.messages import CountTokens, Messages
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.origins import origins_of
from asyncllm.server.monitoring.live import Live
from asyncllm.server.monitoring.metrics import Metrics
from asyncllm.server.monitoring.usage import Usage
from asyncllm.server.openai.audio import Speech, Transcriptions
from asyncllm.server.openai.batches import Batch, BatchCancellation, Batches, NewBatches
from asyncllm.server.openai.description import Description
from asyncllm.server.openai.embeddings import Embeddings
from asyncllm.server.openai.files import File, FileContent, FileRemoval, Files, Uploads
from asyncllm.server.openai.generation import Chats, Completions
from asyncllm.server.openai.health import Health, Ready, Version
from asyncllm.server.openai.images import ImageEdits, ImageGenerations
from asyncllm.server.openai.judging import Moderations, Rerank
from asyncllm.server.openai.models import Model, Models
from asyncllm.server.openai.tokens import Detokenize, Tokenize
from asyncllm.server.page import Page
from asyncllm.server.responses.route import Responses
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.served import ServerStore

__all__ = ["ROUTES", "app", "application_of"]

_NOT_ALLOWED = 405
ROUTES: tuple[tuple[str, str, type[Endpoint]], ...] = (
    ("POST", "/v1/chat/completions", Chats),
    ("POST", "/v1/completions", Completions),
    ("POST", "/v1/responses", Responses),
    ("POST", "/v1/embeddings", Embeddings),
    ("POST", "/v1/audio/speech", Speech),
    ("POST", "/v1/audio/transcriptions", Transcriptions),
    ("POST", "/v1/images/generations", ImageGenerations),
    ("POST", "/v1/images/edits", ImageEdits),
    ("POST", "/v1/moderations", Moderations),
    ("POST", "/v1/rerank", Rerank),
    ("POST", "/v2/rerank", Rerank),
    ("POST", "/rerank", Rerank),
    ("POST", "/tokenize", Tokenize),
    ("POST", "/detokenize", Detokenize),
    ("GET", "/v1/models", Models),
    ("GET", "/v1/models/{id:path}", Model),
    ("POST", "/v1/files", Uploads),
    ("GET", "/v1/files", Files),
    ("GET", "/v1/files/{id}", File),
    ("DELETE", "/v1/files/{id}", FileRemoval),
    ("GET", "/v1/files/{id}/content", FileContent),
    ("POST", "/v1/batches", NewBatches),
    ("GET", "/v1/batches", Batches),
    ("GET", "/v1/batches/{id}", Batch),
    ("POST", "/v1/batches/{id}/cancel", BatchCancellation),
    ("POST", "/v1/messages", Messages),
    ("POST", "/v1/messages/count_tokens", CountTokens),
    ("GET", "/health", Health),
    ("GET", "/ready", Ready),
    ("GET", "/version", Version),
    ("GET", "/server/live", Live),
    ("GET", "/", Page),
    ("GET", "/page/{name}", Page),
    ("GET", "/metrics", Metrics),
    ("GET", "/server/usage", Usage),
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
    """The same of a service that is there already, which can have its client replaced while it answers."""
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in _endpoints(service)],
        middleware=origins_of(service.settings),
        exception_handlers={HTTPException: _without_route},
    )


def _endpoints(service: Service) -> list[tuple[str, str, Endpoint]]:
    described = ("GET", "/openapi.json", Description)
    made = [(method, path, endpoint(service, path)) for method, path, endpoint in ROUTES]
    return [*made, (*described[:2], Description(service, [*ROUTES, described]))]


def _without_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == _NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods(request))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    told = APIStatusError(f"there is no such route: {error.detail}", status=error.status_code, code="no_route")
    return JSONResponse(write_error(told), error.status_code, headers)


def _methods(request: Request) -> list[str]:
    """What may be asked where `request` asks something else: starlette tells that of the first route alone."""
    found = {"OPTIONS"}
    for route in request.app.routes:
        if isinstance(route, Route) and route.methods and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods
    return sorted(found)
