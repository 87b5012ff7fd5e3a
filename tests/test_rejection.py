"""Error replies become the one error they mean, and repeat nothing of the request."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

import asyncllm
from asyncllm.rejection import broken_off, embedded_error, excerpt, rejection, retry_after

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
def test_no_random_body_makes_it_raise(body: bytes, status: int) -> None:
    assert rejection(status, {}, body, sent=body).status == status
    embedded_error(body)
    broken_off(body)


ERRORS_IN_PLACE_OF_A_REPLY = [
    (b'{"error":{"message":"boom","type":"server_error","code":500}}', asyncllm.InternalServerError, "boom"),
    (b'{"error":"boom"}', asyncllm.APIStatusError, "boom"),
    (b'\xef\xbb\xbf{"error":"boom"}', asyncllm.APIStatusError, "boom"),
    (b'{"error":"boom \\ud83d"}', asyncllm.APIStatusError, "boom \ufffd"),
    (b'{"error":"boom","probability":NaN}', asyncllm.APIStatusError, "boom"),
    (b'{"error":"boom \xff"}', asyncllm.APIStatusError, "boom \ufffd"),
    (b'{"error":["boom"]}', asyncllm.APIStatusError, "boom"),
    (b'{"error":{}}', asyncllm.APIStatusError, "without a reason"),
    (b'{"error":""}', asyncllm.APIStatusError, "without a reason"),
    (b'{"error":500}', asyncllm.APIStatusError, "without a reason"),
    (b'{"error":true,"message":"boom"}', asyncllm.APIStatusError, "boom"),
    (b'{"object":"error","message":"boom","code":400}', asyncllm.BadRequestError, "boom"),
    (b'{"type":"error","message":"boom","code":"rate_limit_exceeded"}', asyncllm.RateLimitError, "boom"),
    (b'{"type":"error","error":{"type":"overloaded_error","message":"boom"}}', asyncllm.OverloadedError, "boom"),
    (b'{"detail":"boom"}', asyncllm.APIStatusError, "boom"),
    (b'{"text":"boom","error_code":50001}', asyncllm.APIStatusError, "boom"),
    (b'{"code":"InvalidParameter","message":"boom","request_id":"r"}', asyncllm.APIStatusError, "boom"),
    (b'{"code":429,"message":"boom"}', asyncllm.RateLimitError, "boom"),
    ('{"error":{"message":"boom","code":"\u00b2"}}'.encode(), asyncllm.APIStatusError, "boom"),
]


@pytest.mark.parametrize(("document", "kind", "text"), ERRORS_IN_PLACE_OF_A_REPLY)
def test_an_error_in_place_of_a_reply_is_known_by_its_shape(document: bytes, kind: type[Exception], text: str) -> None:
    error = embedded_error(document)

    assert isinstance(error, kind)
    assert text in error.message
    assert error.body == document


@pytest.mark.parametrize(
    "document",
    [
        b'{"id":"x","choices":null}',
        b'{"type":"ping"}',
        b'{"error":null}',
        b'{"error":false}',
        b'{"code":0,"message":"ok"}',
        b'{"code":"200","message":"ok"}',
        b"[]",
        b"boom",
        b"",
    ],
)
def test_what_is_no_error_is_none(document: bytes) -> None:
    assert embedded_error(document) is None


@pytest.mark.parametrize("code", ["1", "99", "999", "4000", "²", "٤٠٠", "9" * 5000, "-400"])
def test_a_number_that_is_no_status_is_not_taken_for_one(code: str) -> None:
    error = broken_off(json.dumps({"error": {"message": "m", "code": code, "status": 7}}).encode())

    assert error.status is None
    assert type(error) is asyncllm.InternalServerError


HOSTILE = {
    "deep": b'{"error":' * 100_000,
    "a deep list": b"[" * 100_000,
    "messages in messages": b'{"message":' * 500 + b'"boom"' + b"}" * 500,
    "a number without end": b'{"error":{"code":' + b"9" * 60_000 + b"}}",
    "a title that never ends": b"<title>" + b" " * 65_000,
    "titles without end": b"<title" * 10_000,
    "many titles": b"<title>x" * 8_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_makes_it_raise_or_stall(name: str) -> None:
    started_s = time.process_time()

    error = rejection(500, {}, HOSTILE[name], sent=HOSTILE[name])
    broken_off(HOSTILE[name])
    embedded_error(HOSTILE[name])

    assert error.status == 500
    assert time.process_time() - started_s < 1


def test_words_are_looked_for_to_a_depth_and_no_further() -> None:
    def nested(depth: int) -> bytes:
        return b'{"message":' * depth + b'"boom"' + b"}" * depth

    assert rejection(400, {}, nested(3)).message == "boom"
    assert rejection(400, {}, nested(500)).message == "the server gave no reason"


def test_a_server_text_cannot_steer_a_terminal() -> None:
    assert rejection(400, {}, b'{"error":"\\u001b[2Jboom\\r\\u0007"}').message == "[2Jboom"


def test_a_code_or_a_parameter_repeats_nothing_of_the_request_either() -> None:
    body = json.dumps({"error": {"message": "m", "code": "my canary is blue", "param": "sk-123"}}).encode()

    error = rejection(400, {}, body, sent=SENT, secrets=("sk-123",))

    assert (error.code, error.param) == ("…", "***")
    assert rejection(429, {}, b'{"error":{"code":"insufficient_quota"}}', sent=b'{"prompt":"quota"}').code == (
        "insufficient_quota"
    )


def test_what_is_not_json_is_blanked_out_too() -> None:
    error = rejection(400, {}, b"no such form: my canary is blue", sent=b"--x\r\n\r\nmy canary is blue\r\n--x--")

    assert error.message == "no such form:…"


def test_an_excerpt_is_the_title_without_the_prompt() -> None:
    page = b"<html><head><title>\n Busy: my canary is blue\n</title></head>"

    assert excerpt(page, sent=SENT) == "Busy: …"


NOW = "Fri, 29 Sep 2023 16:26:37 GMT"
ADVICE: list[tuple[dict[str, str], float | None]] = [
    ({"retry-after": "20"}, 20),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "-10"}, None),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": " 7 "}, 7),
    ({"retry-after": "+5"}, None),
    ({"retry-after": "1e3"}, None),
    ({"retry-after": "0x10"}, None),
    ({"retry-after": "١٢"}, None),
    ({"retry-after": "1_0"}, None),
    ({"retry-after": "120"}, 120),
    ({"retry-after": "121"}, 121),
    ({"retry-after": "9" * 35}, float("9" * 35)),
    ({"retry-after": "9" * 5000}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "Infinity"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": ","}, None),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:57 GMT"}, 20),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:37 GMT"}, None),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:27 GMT"}, None),
    ({"retry-after": "Fri, 29 Sep 2023 16:28:37 GMT"}, 120),
    ({"retry-after": "Fri, 29 Sep 2023 16:28:38 GMT"}, 121),
    ({"retry-after": "Friday, 29-Sep-23 16:26:57 GMT"}, 20),
    ({"retry-after": "Fri Sep 29 16:26:57 2023"}, 20),
    ({"retry-after": "Zun, 29 Sep 2023 16:26:57 GMT"}, 20),
    ({"retry-after": "Fri, 29 Sep 100000 16:26:57 GMT"}, None),
    ({"retry-after": "Fri, 31 Feb 2023 16:26:57 GMT"}, None),
    ({"retry-after": "Fri, 29 Sep 2023 18:26:57 +0200"}, 20),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:57 -0000"}, 20),
    ({"retry-after": "Fri, 29 Sep 2023 16:26:57 +9999999999"}, None),
    ({"retry-after": "\xff"}, None),
    ({"retry-after": "5, 10"}, 10),
    ({"retry-after": "5, x"}, None),
    ({"retry-after-ms": "250"}, 0.25),
    ({"retry-after-ms": "-1", "retry-after": "3"}, 3),
    ({"retry-after-ms": "abc", "retry-after": "3"}, 3),
    ({"retry-after-ms": "abc"}, None),
    ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
    ({"retry-after-ms": "Fri, 29 Sep 2023 16:26:57 GMT"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), ADVICE)
def test_advice_to_wait_is_read_in_every_form_and_never_raises(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after({**headers, "date": NOW}) == seconds


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Lima"])
def test_a_date_without_a_zone_is_in_utc_wherever_the_client_is(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after({"retry-after": "Fri Sep 29 16:26:57 2023", "date": NOW}) == 20
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_is_read_against_the_servers_own_clock() -> None:
    skewed = {"date": "Fri, 29 Sep 2023 17:26:37 GMT", "retry-after": "Fri, 29 Sep 2023 17:26:47 GMT"}

    assert retry_after(skewed) == 10


@pytest.mark.parametrize("date", [None, "", "yesterday", "Fri, 31 Feb 2023 16:26:57 GMT"])
def test_a_date_is_read_against_the_local_clock_where_the_server_has_none(date: str | None) -> None:
    headers = {"retry-after": formatdate(time.time() + 100, usegmt=True)}

    wait_s = retry_after(headers if date is None else {**headers, "date": date})

    assert wait_s is not None
    assert 60 < wait_s <= 101


@pytest.mark.parametrize(
    ("name", "values", "seconds"),
    [
        ("Retry-After", ["5", "20", "7"], 20),
        ("Retry-After", ["5", "Fri, 29 Sep 2023 16:26:57 GMT"], 20),
        ("Retry-After", ["5", "soon"], 5),
        ("retry-after-ms", ["250", "750"], 0.75),
    ],
)
def test_of_several_headers_the_longest_wait_counts(name: str, values: list[str], seconds: float) -> None:
    headers = CIMultiDict([("Date", NOW), *((name, value) for value in values)])

    assert retry_after(headers) == seconds


SPANS: list[tuple[str, float | None]] = [
    ("1s", 1),
    ("6m0s", 360),
    ("20ms", 0.02),
    ("1h2m3.5s", 3723.5),
    ("6m", 360),
    ("2m59.56s", 179.56),
    ("1s500ms", 1.5),
    ("0s", 0),
    ("", None),
    ("s", None),
    ("-1s", None),
    ("1", None),
    ("1d", None),
    ("1s1h", None),
    ("٣s", None),
    ("9" * 5000 + "s", None),
]


@pytest.mark.parametrize(("text", "seconds"), SPANS)
def test_a_used_up_limit_says_when_it_starts_afresh(text: str, seconds: float | None) -> None:
    for kind in ("requests", "tokens"):
        headers = {f"x-ratelimit-remaining-{kind}": "0", f"x-ratelimit-reset-{kind}": text}

        assert retry_after(headers) == (None if seconds is None else pytest.approx(seconds))
        assert retry_after({**headers, f"x-ratelimit-remaining-{kind}": "1"}) is None
        assert retry_after({f"x-ratelimit-reset-{kind}": text}) is None
        assert retry_after({**headers, "retry-after": "3"}) == 3


def test_of_two_used_up_limits_the_later_one_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    assert retry_after(headers) == 360
    assert retry_after({**headers, "x-ratelimit-remaining-tokens": "5"}) == 1


header_texts = st.text(st.characters(codec="latin-1"), max_size=40) | st.sampled_from(
    [value for headers, _ in ADVICE for value in headers.values()] + [text for text, _ in SPANS]
)
names = st.sampled_from(
    ["date", "retry-after", "retry-after-ms", "x-should-retry"]
    + [f"x-ratelimit-{what}-{kind}" for what in ("remaining", "reset") for kind in ("requests", "tokens")]
)


@given(st.lists(st.tuples(names, header_texts), max_size=6))
def test_no_headers_make_it_raise(headers: list[tuple[str, str]]) -> None:
    wait_s = rejection(429, CIMultiDict(headers), b"").retry_after_s

    assert wait_s is None or 0 <= wait_s < float("inf")


@pytest.mark.parametrize(("status", "kind", "retryable"), STATUSES)
def test_a_server_has_the_last_word_on_retrying(status: int, kind: type[Exception], retryable: bool) -> None:
    words = {"true": True, "True ": True, "false": False, "junk": retryable, "": retryable, "1": retryable}

    for word, expected in words.items():
        error = rejection(status, {"x-should-retry": word}, b"")
        assert (type(error), error.retryable) == (kind, expected), word


@pytest.mark.parametrize("form", ["%s", "[%s]"])
def test_a_key_that_google_does_not_know_is_an_authentication_error(form: str) -> None:
    body = (
        '{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":'
        '[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}'
    )

    error = rejection(400, {}, (form % body).encode())

    assert (type(error), error.message, error.retryable) == (asyncllm.AuthenticationError, "API key not valid.", False)
