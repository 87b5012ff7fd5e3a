"""What a refusal of aiXplain means.

Its statuses from 460 on are its own: ten each for subscription, billing, supplier and validation. `code` names the
category. An `AX-...` code of the service stays in `body`.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Struct

from asyncllm.backend import HttpCall
from asyncllm.errors import (
    APIError,
    APIStatusError,
    AuthenticationError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    UnprocessableEntityError,
)
from asyncllm.rejection import broken_off, excerpt

__all__ = ["categorised", "failed", "scrubbed"]

_BODY_LIMIT = 65536


class _Category(Struct, frozen=True):
    name: str
    kind: type[APIStatusError] | None
    """`None` leaves the class that the status has everywhere."""
    hint: str


_BILLING = _Category("billing", QuotaExceededError, "the account has not enough credit for this model")
_OF_STATUS = {
    400: _Category("validation", None, "the request is not what the model takes"),
    401: _Category("authentication", None, "the key is not valid"),
    402: _BILLING,
    403: _Category("resource", None, "the key may not run this model"),
    404: _Category("resource", None, "there is no such model"),
    429: _Category("rate_limit", None, "too many runs for now"),
    500: _Category("internal", None, "the service failed"),
    503: _Category("service", None, "the service is not available"),
    504: _Category("network", None, "the service has waited too long for the model"),
}
_OF_TENS = {
    46: _Category("subscription", PermissionDeniedError, "the subscription to this model has ended or there is none"),
    47: _BILLING,
    48: _Category("supplier", NotFoundError, "the supplier does not provide this model"),
    49: _Category("validation", UnprocessableEntityError, "the request is not what the model takes"),
}
# Of a run that was accepted and failed, by the word in the middle of its code.
_OF_WORD = {
    "AUTH": ("authentication", AuthenticationError),
    "VAL": ("validation", UnprocessableEntityError),
    "RES": ("resource", NotFoundError),
    "BIL": ("billing", QuotaExceededError),
    "SUP": ("supplier", APIStatusError),
    "NET": ("network", InternalServerError),
    "SVC": ("service", OverloadedError),
    "INT": ("internal", InternalServerError),
}


def categorised(error: APIStatusError) -> APIStatusError:
    """The refusal of a run, with the category that its status stands for."""
    status = error.status or 0
    category = _OF_STATUS.get(status) or (_OF_TENS.get(status // 10) if status < 500 else None)
    if category is None:
        return error
    # A code of the reply is more exact than the category of a status that everybody uses.
    code = error.code if error.code and category.kind is None else category.name
    kind = category.kind or type(error)
    return kind(
        f"{category.hint}. Details: {error.message}",
        status=error.status,
        code=code,
        param=error.param,
        request_id=error.request_id,
        retry_after_s=error.retry_after_s,
        retryable=error.retryable if category.kind is None else False,
        body=error.body,
    )


def scrubbed(error: APIError, call: HttpCall) -> APIError:
    """The refusal of a question after a run, which may repeat what `call`, and not the question, has sent."""
    if not isinstance(error, APIStatusError):
        return error
    told = excerpt(error.message.encode(), sent=call.body, secrets=call.secrets)
    return type(error)(told or "the server gave no reason", body=error.body, **error.facts())


def failed(document: dict[str, Any], body: bytes, call: HttpCall) -> APIStatusError:
    """The error of a run that was accepted and failed. It would be billed again, and is not to be tried again."""
    supplier = _told(document.get("supplierError"))
    own = next(
        (told for name in ("error_message", "errorMessage", "error", "message") if (told := _told(document.get(name)))),
        "",
    )
    word = str(document.get("error_code") or "").split("-")
    name, kind = _OF_WORD.get(word[1] if len(word) == 3 else "", ("supplier" if supplier else None, None))
    shown = " - ".join(filter(None, (own, supplier))) or "the run failed and the service gave no reason"
    error = broken_off(
        msgspec.json.encode({"error": {"message": shown, "status": document.get("statusCode")}}),
        sent=call.body,
        secrets=call.secrets,
    )
    if kind is None:
        # Without a status nothing says whose fault it was, and no class but the general one is right.
        kind = APIStatusError if error.status is None else type(error)
    return kind(
        error.message,
        status=error.status,
        code=name or "failed",
        retryable=False,
        maybe_billed=True,
        body=body[:_BODY_LIMIT],
    )


def _told(value: object) -> str:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("message") or msgspec.json.encode(value).decode()
    return value.strip() if isinstance(value, str) else ""
