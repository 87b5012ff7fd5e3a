"""Any backend behind OpenAI's API and Anthropic's (extra `server`): `asyncllm serve`, and `app` to mount elsewhere.

`app` puts the routes together, and `service` has what they share; `openai` and `anthropic` have what is each API's own.
`endpoint` is one route: `access` says who asks, `bodies` takes a request in, within limits, `admission` lets a call
begin and keeps its account, `generation` makes it, `departure` ends its work when its client goes, and `replies` and
`streams` send what comes of it. `serving` runs it all with uvicorn. Nothing else of asyncllm imports starlette,
sse_starlette or uvicorn.
"""

from asyncllm.server.app import app
from asyncllm.server.settings import ServerSettings

__all__ = ["ServerSettings", "app"]
