"""Scale's LLM Engine: the hosted service, or a gateway of your own that `base_url` or `LLM_ENGINE_BASE_PATH` names.

Source: https://github.com/scaleapi/llm-engine (server and client). Environment: `SCALE_API_KEY`,
`LLM_ENGINE_BASE_PATH`.

A text completion goes to the engine's own API (V1), whose rules are checked here, before anything is sent; a chat goes
to its OpenAI-compatible one (V2). The model is the name of an endpoint.

Batches of the service's own (`run_batch(via="vendor")`) need `vendor={"output": "s3://bucket/folder"}`, a folder that
the service and you can reach: it writes outcomes there, and they are fetched with the credentials of `place_options` or
the environment.

A key is always needed. The vendor's client falls back on the word `root`, which a gateway without accounts takes for
the name of a user: for one of those, say `api_key="root"` yourself.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_llmengine.batches import LLMEngineWithBatches

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options:

    - `headers`: sent with every call, over the backend's own.
    - `auth`: `"basic"` sends the key as the vendor's client does, as the user of HTTP Basic; `"bearer"` as a bearer
      token. It stands in `x-api-key` as well either way.
    - `completions`: `"v1"`, or `"v2"` for the OpenAI-compatible API.
    - `max_new_tokens`, `temperature`: what V1 is sent where a call does not say, since it takes no request without
      them: 20 and 0.2, as from the vendor's client.
    - `framework`: what the endpoint runs (`vllm`, `text_generation_inference`, `lightllm`, `deepspeed`,
      `tensorrt_llm`, `sglang`), so that V1 options which it lacks are refused here and not by the server. With
      `tensorrt_llm` a V1 stream, which never says that it has finished, ends where it is closed.
    - `structured_outputs`: `True` writes a constraint of V2 the way that recent releases of vLLM read it. Those answer
      unconstrained where they are sent the older `guided_*` fields, which LLM Engine documents.
    - `health`: which of `"healthz"`, `"readyz"` and `"healthcheck"` `is_alive` asks.
    """
    return LLMEngineWithBatches(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Scale's LLM Engine, hosted or your own",
        variables=("SCALE_API_KEY", "LLM_ENGINE_BASE_PATH"),
        calls=("chat", "complete", "list_models", "get_model"),
    )
