"""aiXplain: language models that run behind one address and one key, whoever supplies them.

Source: https://docs.aixplain.com and the public client, https://github.com/aixplain/aiXplain. Environment:
`TEAM_API_KEY` or `AIXPLAIN_API_KEY`, `MODELS_RUN_URL` (as `base_url`), `BACKEND_URL` (as the option `backend_url`).

A call is a run of a model. The last message, a user's, is its `data`; the system messages before the first turn are
its `context`; the turns in between, in OpenAI's form, are its `history`. `prompt`, which the service puts before the
data, and what else a model takes go into `extra`, which wins over the named options. What is unset is left out, where
the vendor's client sends nulls and 128 for `max_tokens`. A text is sent as the text it is: it is not read as JSON, and
a path in it is not uploaded.

A run that is not done at once is asked after until it is, within the deadlines of the call, and is never submitted
again: it is billed by the run. So once a run is accepted, its errors are not retryable. `submit` makes a job of a run,
which is asked after by the address that the service gives.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_aixplain.backend import AiXplain

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options:

    - `headers`: sent with every call, over the backend's own.
    - `wait_time`: seconds before a run is asked after the first time, 0.5, and never below 0.2; each wait is a tenth
      longer than the one before, up to a minute, give or take a fifth.
    - `trusted_hosts`: hosts, as `host` or `host:port`, that may be asked for a result with the key, beside the one
      that runs the models.
    - `backend_url`: the address of the catalogue. It is known for aiXplain's own address alone.
    - `catalog`: `True` asks the catalogue once for each model that is called. A model that does not generate text,
      or is to stream and cannot, is then refused before it is run, and its own temperature is sent where a call has
      none.
    """
    return AiXplain(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="aiXplain's models, whoever supplies them",
        variables=("TEAM_API_KEY", "AIXPLAIN_API_KEY", "MODELS_RUN_URL", "BACKEND_URL"),
        calls=("chat", "list_models", "get_model", "submit"),
    )
