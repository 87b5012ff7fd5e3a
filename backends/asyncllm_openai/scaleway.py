"""Scaleway's Generative APIs: those of a project, or a deployment of one's own that `base_url` names.

Source: https://www.scaleway.com/en/docs/generative-apis. Environment: `SCALEWAY_API_KEY`, `SCALEWAY_BASE_URL`,
`SCALEWAY_PROJECT_ID`. An address wins over a project; without either there is nothing to call, and that is an error
before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from asyncllm.backend import About, Backend, Config, Context
from asyncllm.errors import ConfigError
from asyncllm.exchange import Exchange
from asyncllm.types import Request
from asyncllm_openai import gateways
from asyncllm_openai.backend import OpenAI
from asyncllm_openai.offered import offered
from asyncllm_openai.table import GATEWAYS

__all__ = ["about", "connect"]

_URL = "https://api.scaleway.ai/v1"
_PROJECT = re.compile(r"[0-9A-Za-z-]+")
_NEEDS_SCHEMA = "qwen3-235b-a22b-instruct-2507"
_ANY_OBJECT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend. Options: `project_id`, and those of every gateway."""
    row = GATEWAYS["scaleway"]
    url = config.url(context.env, row.address, _of_project(config, context.env))
    service = gateways.service(row, config, context.env, url)
    server = _Scaleway(config, context, msgspec.structs.replace(service, options=("project_id",)))
    return offered(server, row.calls)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    told = gateways.about("scaleway")
    return msgspec.structs.replace(told, variables=(*told.variables, "SCALEWAY_PROJECT_ID"))


class _Scaleway(OpenAI):
    def open(self, request: Request, /) -> Exchange:
        """Start one chat; a model that knows no JSON mode is asked for a schema that every object fits."""
        if request.model == _NEEDS_SCHEMA and _is_json_mode(request.extra.get("response_format")):
            request = msgspec.structs.replace(request, extra={**request.extra, "response_format": _ANY_OBJECT})
        return super().open(request)


def _is_json_mode(form: Any) -> bool:
    return bool(form == {"type": "json_object"})


def _of_project(config: Config, env: Mapping[str, str]) -> str | None:
    """The address of the configured project, unless there is an address already."""
    project = config.option("project_id", str, "") or env.get("SCALEWAY_PROJECT_ID", "").strip()
    if config.base_url or env.get("SCALEWAY_BASE_URL", "").strip():
        return None
    if not project:
        raise ConfigError(
            f"the {config.backend!r} backend needs a project or an address: set SCALEWAY_PROJECT_ID or "
            "SCALEWAY_BASE_URL, or pass base_url= or the option 'project_id'",
            backend=config.backend,
            field="project_id",
        )
    if _PROJECT.fullmatch(project) is None:
        raise ConfigError(
            "project_id is the id of a Scaleway project, made of letters, digits and hyphens",
            backend=config.backend,
            field="project_id",
        )
    return f"{_URL}/{project}"
