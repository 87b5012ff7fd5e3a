"""Named places at which a process can be made to end, so that tests see what is left.

`ASYNCLLM_CRASH=row.commit.after:3` ends the process, as a kill would, when that place is reached for the third time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

from asyncllm.errors import ConfigError

__all__ = ["KILLED", "Points"]

KILLED = 137
"""What a process that ended at a point leaves as its status, as one that was killed does."""


class Points:
    """The one place of this run at which it is to end, if any."""

    def __init__(self, env: Mapping[str, str]) -> None:
        told = env.get("ASYNCLLM_CRASH", "")
        self._name, _, times = told.partition(":")
        if times and not times.isdecimal():
            raise ConfigError("ASYNCLLM_CRASH is the name of a point, or name:n for the n-th time", field="env")
        self._times = int(times or 1)
        self._seen: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        """Here is `name`."""
        if name == self._name:
            self._seen[name] += 1
            if self._seen[name] == self._times:
                os._exit(KILLED)
