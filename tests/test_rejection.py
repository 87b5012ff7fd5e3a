"""Error replies become the one error they mean, and repeat nothing of the request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm.rejection import embedded_error, rejection, retry_after

STATUSES = [
    (400, asyncllm.BadRequestError, False),
    (401, asyncllm.AuthenticationError, False),
    (403, asyncllm.PermissionDeniedError, False),
    (404, asyncllm.NotFoundError, False),
    (408, asyncllm.APIStatusError, True),
    (409, asyncllm.ConflictError, True),
    (410, asyncllm.NotFoundError, False),
    (418, asyncllm.APIStatusError, False),
    (422, asyncllm.UnprocessableEntityError, False),
    (425, asyncllm.APIStatusError, True),
    (429, asyncllm.RateLimitError, True),
    (500, asyncllm.InternalServerError, True),
    (501, asyncllm.InternalServerError, False),
    (502, asyncllm.InternalServerError, True),
    (503, asyncllm.OverloadedError, True),
    (505, asyncllm.InternalServerError, False),
    (524, asyncllm.InternalServerError, True),
    (529, asyncllm.OverloadedError, True),
]


@pytest.mark.parametrize(("status", "kind", "retryable"), STATUSES)
def test_a_status_alone_decides(status: int, kind: type[Exception], retryable: bool) -> None:
    error = rejection(status, {}, b"")

    assert type(error) is kind
    assert error.retryable is retryable
    assert error.status == status


CODES = [
    (400, "context_length_exceeded", asyncllm.ContextLengthExceededError),
    (400, "content_filter", asyncllm.ContentFilterError),
    (429, "insufficient_quota", asyncllm.QuotaExceededError),
    (429, "invalid_request_error", asyncllm.RateLimitError),
    (404, "invalid_request_error", asyncllm.NotFoundError),
    (400, "rate_limit", asyncllm.BadRequestError),
]


@pytest.mark.parametrize(("status", "code", "kind"), CODES)
def test_a_code_says_more_than_the_status_only_where_it_does(status: int, code: str, kind: type[Exception]) -> None:
    error = rejection(status, {}, json.dumps({"error": {"message": "m", "code": code}}).encode())

    assert type(error) is kind
    assert error.code == code


def test_used_up_quota_is_not_worth_waiting_for() -> None:
    assert rejection(429, {}, b'{"error":{"code":"insufficient_quota"}}').retryable is False


BODIES = [
    (b'{"error":{"message":"boom","type":"t","param":"p","code":"c"}}', "boom", "c", "p"),
    (b'{"error":"boom","error_type":"overloaded"}', "boom", "overloaded", None),
    (b'{"detail":"boom"}', "boom", None, None),
    (b'{"detail":[{"loc":["body","model"],"msg":"boom","type":"missing"}]}', "body.model: boom", None, None),
    (b'{"message":"boom","code":42}', "boom", "42", None),
    (b'{"object":"error","message":"boom","type":"BadRequestError","code":400}', "boom", "400", None),
    (b"<html><head><title>boom</title></head><body>x</body></html>", "boom", None, None),
    (b"boom\nsecond line", "boom", None, None),
    (b"\xff\xfe", "\ufffd\ufffd", None, None),
    (b'{"error":', '{"error":', None, None),
    (b"", "the server gave no reason", None, None),
    (b"[]", "the server gave no reason", None, None),
    (b"null", "the server gave no reason", None, None),
]


@pytest.mark.parametrize(("body", "message", "code", "param"), BODIES)
def test_the_servers_words_are_found_in_every_shape(
    body: bytes, message: str, code: str | None, param: str | None
) -> None:
    error = rejection(400, {"x-request-id": "req-1"}, body)

    assert (error.message, error.code, error.param, error.request_id) == (message, code, param, "req-1")
    assert error.body == body


SENT = json.dumps(
    {"model": "gpt-x", "messages": [{"role": "user", "content": "my canary is blue\nand it sings all day"}]}
).encode()


@pytest.mark.parametrize(
    "echo",
    [
        "my canary is blue and it sings all day",
        "my canary is blue",
        "it sings all day",
        '"my canary is blue\nand it sings',
    ],
)
def test_what_a_server_repeats_of_the_prompt_is_blanked_out(echo: str) -> None:
    body = json.dumps({"error": {"message": f"cannot process: {echo} (model gpt-x)"}}).encode()

    error = rejection(400, {}, body, sent=SENT)

    assert "canary" not in str(error)
    assert "sings" not in str(error)
    assert "cannot process" in str(error)
    assert "gpt-x" in str(error)


def test_a_short_secret_prompt_is_blanked_out_whole() -> None:
    sent = b'{"messages":[{"role":"user","content":"hunter2"}]}'

    error = rejection(400, {}, b'{"error":{"message":"bad word hunter2 in prompt"}}', sent=sent)

    assert str(error).startswith("bad word … in prompt")


def test_keys_are_blanked_out() -> None:
    error = rejection(401, {}, b'{"error":{"message":"bad key sk-123"}}', secrets=("sk-123",))

    assert error.message == "bad key ***"


def test_a_long_text_is_cut() -> None:
    assert len(rejection(400, {}, b"x" * 10_000).message) == 500


@given(st.binary(max_size=300), st.integers(400, 599))
def test_no_body_makes_it_raise(body: bytes, status: int) -> None:
    assert rejection(status, {}, body, sent=body).status == status
    embedded_error(body)


NOW = "Fri, 29 Sep 2023 16:26:37 GMT"
ADVICE = [
    ({"retry-after": "20"}, 20),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": " 7 "}, 7),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "-10"}, None),
    ({"retry-after": "+5"}, None),
    ({"retry-after": "1e3"}, None),
    ({"retry-after": "0x10"}, None),
    ({"retry-after": "١٢"}, None),
    ({"retry-after": "1_0"}, None),
    ({"retry-after": "9" * 35}, float("9" * 35)),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:57 GMT"}, 20),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:37 GMT"}, None),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:27 GMT"}, None),
    ({"retry-after": "Fri, 29 Sep 100000 16:26:57 GMT"}, None),
    ({"retry-after": "Fri, 31 Feb 2023 16:26:57 GMT"}, None),
    ({"retry-after": "\xff"}, None),
    ({"retry-after-ms": "250"}, 0.25),
    ({"retry-after-ms": "-1", "retry-after": "3"}, 3),
    ({"retry-after-ms": "abc", "retry-after": "3"}, 3),
    ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), ADVICE)
def test_advice_to_wait_is_read_in_every_form_and_never_raises(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after({**headers, "date": NOW}) == seconds


def test_a_date_is_read_against_the_servers_own_clock() -> None:
    skewed = {"date": "Fri, 29 Sep 2023 17:26:37 GMT", "retry-after": "Fri, 29 Sep 2023 17:26:47 GMT"}

    assert retry_after(skewed) == 10
