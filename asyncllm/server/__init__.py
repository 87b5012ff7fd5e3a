"""Any backend behind OpenAI's API and Anthropic's (extra `server`): `asyncllm serve`, and `app` to mount elsewhere.

`app` puts the routes together, and `service` has what they share; `openai` and `anthropic` have what is each API's own.
`origins` turns away what no route is to see. `endpoint` is one route: `access` says who asks, by the keys of `keyring`,
`bodies` takes a request in, within limits, `admission` lets a call begin, by the `quota` of its key and in its turn of
the `line`, and keeps its account, `generation` makes it, `departure` ends its work when its client goes, and `replies`
and `streams` send what comes of it; `figures` has what is told of it all. `serving` runs it with uvicorn, `workers` as
several processes, and `reload` has it answer by another configuration; `exposure` says what an address asks for.
Nothing else of asyncllm imports starlette, sse_starlette or uvicorn.
"""

from asyncllm.server.app import app, application_of
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings

__all__ = ["ServerSettings", "Service", "app", "application_of"]
