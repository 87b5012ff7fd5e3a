"""The exit statuses, and which error ends with which."""

from asyncllm.errors import (
    APIError,
    APITimeoutError,
    AsyncLLMError,
    BatchLockedError,
    ConfigError,
    UnsupportedError,
)

__all__ = ["FAILED", "INTERRUPTED", "LATER", "OK", "OUTPUT_GONE", "TERMINATED", "TEXT", "USAGE", "status_of"]

OK = 0
FAILED = 1
USAGE = 2
LATER = 75
"""`EX_TEMPFAIL` of sysexits.h, which mail systems and `retry` loops know."""
INTERRUPTED = 130
OUTPUT_GONE = 141
TERMINATED = 143

TEXT = """\
exit status:
    0  done
    1  the call failed, and would again; of a batch, some rows failed, or it was cancelled
    2  wrong usage or configuration, or an option that the backend lacks
   75  failed for now (rate limit, overload, connection, timeout): the same command may work later;
       of a batch, it has stopped before its last row, or somebody else is at work on it
  130  interrupted by Ctrl-C; the model was stopped
  141  whoever read the output stopped reading (`| head`); the model was stopped
  143  terminated (SIGTERM); the model was stopped
"""


def status_of(error: AsyncLLMError) -> int:
    """The exit status of a command that ends with `error`."""
    if isinstance(error, ConfigError | UnsupportedError):
        return USAGE
    # `--timeout` is not worth a retry inside the call whose time is up, but the next call may well be in time.
    if isinstance(error, BatchLockedError):
        return LATER
    if isinstance(error, APIError) and (error.retryable or isinstance(error, APITimeoutError)):
        return LATER
    return FAILED
