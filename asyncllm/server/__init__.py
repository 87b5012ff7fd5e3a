"""Any backend behind OpenAI's API (extra `server`): `asyncllm serve`, and `app` to mount in another application.

`app` puts the routes together; `openai` has what they do. `bodies` takes a request in, within limits, `departure` ends
its work when its client goes, `replies` and `streams` send what comes of it, and `serving` runs it all with uvicorn.
Nothing else of asyncllm imports starlette, sse_starlette or uvicorn.
"""

from asyncllm.server.app import app
from asyncllm.server.settings import ServerSettings

__all__ = ["ServerSettings", "app"]
