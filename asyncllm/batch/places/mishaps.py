"""What obstore raises, as our own errors.

Its texts are made for developers: they repeat addresses, with signatures where there are some, and whole replies. What
is taken from them is the HTTP status and the store's own code and request id, each a single word.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html (the XML of errors, which the others follow)
"""

from __future__ import annotations

import re

from asyncllm.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncLLMError,
    AuthenticationError,
    BadRequestError,
    InputError,
    InternalServerError,
    OverloadedError,
    PermissionDeniedError,
    UnsupportedError,
    WriteError,
)

__all__ = ["explained", "read_error", "write_error"]

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_REQUEST_ID = re.compile(r"<RequestId>([\w+/=-]{1,120})</RequestId>")
_KEY = re.compile(r"Configuration key: '([\w-]{1,60})'")
_METADATA = ("http://169.254.169.254", "http://metadata.google.internal", "http://metadata/")
"""Where a machine's own identity is asked for, which is what is left where no key is configured."""


def read_error(error: Exception, name: str) -> AsyncLLMError:
    """What `error` means for a reader of the object `name`."""
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name} cannot be read: nothing is there; check the key and the bucket")
    if kind in ("PreconditionError", "NotModifiedError"):
        return InputError(f"{name} has changed while it was read; read it again")
    return _general(error, name, "read")


def write_error(error: Exception, name: str) -> AsyncLLMError:
    """What `error` means for a writer of the object `name`."""
    if isinstance(error, AsyncLLMError):
        return error
    if isinstance(error, FileNotFoundError):
        return WriteError(
            f"{name} cannot be written: its bucket is not there; make it first", code=_found(_CODE, error)
        )
    if type(error).__name__ == "NotSupportedError":
        return WriteError(
            f"{name} cannot be written: the store has no way to write so large an object only if none is there; write "
            "with overwrite=True (--overwrite)"
        )
    return _general(error, name, "written")


def explained(error: Exception) -> str:
    """What is wrong with a store's settings, without their values."""
    if key := _found(_KEY, error):
        return f"there is no option {key!r}"
    if "MissingAccount" in str(error):
        return "the storage account is not named; set AZURE_STORAGE_ACCOUNT_NAME, or the option account_name"
    return "check the names and types of what is set"


def _general(error: Exception, name: str, done: str) -> APIError | UnsupportedError:
    text = str(error)
    if any(address in text for address in _METADATA):
        return AuthenticationError(
            f"{name} cannot be {done}: no credentials were found; set those of the store in the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or pass them as options"
        )
    status = int(_found(_STATUS, error) or 0)
    found = _by_status(status) or _by_kind(type(error).__name__)
    if found is not None:
        kind, why = found
        return kind(
            f"{name} cannot be {done}: {why}",
            status=status or None,
            code=_found(_CODE, error),
            request_id=_found(_REQUEST_ID, error),
        )
    if "BadScheme" in text:
        return UnsupportedError(
            f"{name}: the endpoint is plain HTTP; pass the option allow_http=True", field="endpoint"
        )
    return APIConnectionError(f"{name} cannot be {done}: the store did not answer; check the endpoint and the network")


def _by_status(status: int) -> tuple[type[APIStatusError], str] | None:
    match status:
        case 0:
            return None
        case 401:
            return AuthenticationError, "the store does not know the key"
        case 403:
            return PermissionDeniedError, "the store does not let this key do that"
        case 429 | 503:
            return OverloadedError, "the store is busy; try again later"
        case _ if status >= 500:
            return InternalServerError, "the store failed"
        case _:
            return BadRequestError, "the store refuses the request"


def _by_kind(kind: str) -> tuple[type[APIStatusError], str] | None:
    match kind:
        case "PermissionDeniedError":
            return _by_status(403)
        case "UnauthenticatedError":
            return _by_status(401)
        case "InvalidPathError" | "NotSupportedError":
            return _by_status(400)
        case _:
            return None


def _found(pattern: re.Pattern[str], error: Exception) -> str | None:
    found = pattern.search(str(error))
    return found[1] if found else None
