"""What the command line says of object stores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from asyncllm.cli.options import pair
from asyncllm.errors import ConfigError

__all__ = ["place_options"]

_SECRET = re.compile("key|secret|token|passw|credential|sas|signature|header|proxy_url")


def place_options(given: Sequence[str]) -> dict[str, Any]:
    """The options of `--place-option`, which are kept with the batch, so that none may be secret.

    Raises `ConfigError`, without the value.
    """
    options: dict[str, Any] = {}
    for one in given:
        name, value = pair(one, "--place-option")
        if _SECRET.search(name.lower()):
            raise ConfigError(
                f"--place-option takes nothing secret, and {name[:40]} may be: put it into the environment, by the "
                "name that the cloud's own tools know, as everyone on the machine can read arguments",
                field="--place-option",
            )
        options[name] = value
    return options
