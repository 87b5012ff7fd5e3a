"""Any backend behind OpenAI's API and Anthropic's (extra `server`): `asyncllm serve`, and `app` to mount elsewhere.

`app` puts the routes together, and `service` has what they share. `endpoint` is one route and `generation` one that
makes an answer; `openai`, `responses` and `anthropic` have what is each API's own, and `batches` works off files of
rows. Around them, in the order of a request: `http` takes it in, within limits, and ends its work when its client goes;
`keys` say who asks; `limits` let a call begin, in its turn, and keep its account; `replies` and `streams` send what
comes of it; `monitoring` tells of it all, and `page` shows it. `running` has it listen, as one process or several, and
answer by another configuration. Nothing else of asyncllm imports starlette, sse_starlette or uvicorn.
"""

from asyncllm.server.app import app, application_of
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings

__all__ = ["ServerSettings", "Service", "app", "application_of"]
