"""Services that speak OpenAI's API at an address of their own, each of them one row.

To add one: a row of `asyncllm_openai.table`, an entry point `name = "asyncllm_openai.gateways:connect"` in
pyproject.toml, and a line of `EXPECTED` in tests/test_gateways.py. Nothing else changes: `config.backend` tells which
row it is, and the row which calls, options and fields the service has.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncllm.backend import About, Backend, Config, Context, Secret
from asyncllm.errors import ConfigError
from asyncllm_openai.backend import OpenAI, Service
from asyncllm_openai.batches import OpenAIWithBatches
from asyncllm_openai.offered import offered
from asyncllm_openai.table import GATEWAYS, Gateway

__all__ = ["about", "connect", "service"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend of the row that `config.backend` names.

    Options: `headers`, `include_usage`, `max_tokens_field`, `delta_mode`, `on_bad_event`, as of `openai`.
    """
    row = GATEWAYS[config.backend]
    url = config.url(context.env, row.address, row.url)
    make = OpenAIWithBatches if row.batches else OpenAI
    server = make(config, context, service(row, config, context.env, url))
    return offered(server, row.calls, alive=bool(row.probe), batches=row.batches)


def about(name: str, /) -> About:
    """A row of the table of backends."""
    row = GATEWAYS[name]
    return About(summary=row.summary, variables=(*row.keys, row.address), calls=row.calls)


def service(row: Gateway, config: Config, env: Mapping[str, str], url: str) -> Service:
    """What the row says, with the key found. Raises `ConfigError` where there is none and one is needed."""
    headers = {"Content-Type": "application/json"}
    key = _find_key(config, env, row)
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    return Service(
        url=url,
        headers=config.headers(headers),
        supported=row.supported,
        flavor=row.flavor,
        extended=row.extended,
        probe=row.probe,
        schema_of_texts=row.schema_of_texts,
        bare_transcripts=row.bare_transcripts,
    )


def _find_key(config: Config, env: Mapping[str, str], row: Gateway) -> Secret | None:
    """The configured key, else that of the first of the row's variables that is set."""
    for variable in row.keys:
        key = config.key(env, variable)
        if key is not None:
            return key
    if row.needs_key:
        raise ConfigError(
            f"the {config.backend!r} backend needs a key: set {' or '.join(row.keys)} or pass api_key=",
            backend=config.backend,
            field="api_key",
        )
    return None
