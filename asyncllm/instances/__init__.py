"""Model servers that are started for the occasion, asked, and stopped: work made of calls.

    async with asyncllm.instances.Maze("http://localhost:8000") as maze:
        instance = await maze.start("facebook/opt-125m")
        reply = await instance.complete("The sea is")

What was started in the block is stopped at its end, whichever way that comes.
"""

from asyncllm.instances.errors import (
    InstanceExitedError,
    InstanceNotReadyError,
    LostInstanceError,
    UnknownInstanceError,
)
from asyncllm.instances.instance import Instance
from asyncllm.instances.maze import Maze

__all__ = [
    "Instance",
    "InstanceExitedError",
    "InstanceNotReadyError",
    "LostInstanceError",
    "Maze",
    "UnknownInstanceError",
]
