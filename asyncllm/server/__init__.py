"""Any backend behind OpenAI's API and Anthropic's (extra `server`): `asyncllm serve`, and `app` to mount elsewhere.

`app` puts the routes together; `openai` and `anthropic` have what is each API's own, `generation` what they share.
`bodies` takes a request in, within limits, `departure` ends its work when its client goes, `replies` and `streams` send
what comes of it, and `serving` runs it all with uvicorn. Nothing else of asyncllm imports starlette, sse_starlette or
uvicorn.
"""

from asyncllm.server.app import app
from asyncllm.server.settings import ServerSettings

__all__ = ["ServerSettings", "app"]
