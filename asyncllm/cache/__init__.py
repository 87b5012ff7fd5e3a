"""The response cache: answers that were given before, given again without asking anyone.

MemoryCache    for one process
DiskCache      a folder that several processes share and that outlives them; the extra `asyncllm[cache]`
Cache          what a store of your own has to do
"""

from asyncllm.cache.disk import DiskCache
from asyncllm.cache.guarded import Guarded
from asyncllm.cache.memory import MemoryCache
from asyncllm.cache.protocol import Cache

__all__ = ["Cache", "DiskCache", "Guarded", "MemoryCache"]
