"""Where inputs are read from and outputs are written to."""

from asyncllm.batch.places.addresses import place_of
from asyncllm.batch.places.protocol import Place, Write

__all__ = ["Place", "Write", "place_of"]
