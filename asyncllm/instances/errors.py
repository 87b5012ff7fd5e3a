"""What can go wrong with an instance beside a call to it; all of it is in the one tree of `asyncllm.errors`."""

from asyncllm.errors import APIConnectionError, APITimeoutError, InvalidRequestError

__all__ = ["InstanceExitedError", "InstanceNotReadyError", "LostInstanceError", "UnknownInstanceError"]


class UnknownInstanceError(InvalidRequestError):
    """The instance was never started or attached here, or has been stopped; nothing was sent."""


class InstanceExitedError(APIConnectionError):
    """An instance that had answered is gone before it was ready: its process has ended."""

    retryable = False


class InstanceNotReadyError(APITimeoutError):
    """An instance did not become ready in time; `__cause__` is what the last look at it said."""

    retryable = False


class LostInstanceError(APIConnectionError):
    """A start has no reply that could be read: an instance may be running whose id nobody here knows."""

    retryable = False
    maybe_billed = True
