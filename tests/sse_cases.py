"""What a server may send, and what WHATWG HTML section 9.2.6 makes of it, one case per row.

Row names are those of the project's conformance list: W from web-platform-tests, U from undici, P from
eventsource-parser and openai-python, X our own. `last_event_id` and `retry_ms` are the state once the input has
ended; an id counts from the blank line that ends its block, even if that block has no data.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Case:
    row: str
    data: bytes
    events: tuple[tuple[str, str, str], ...]
    """Type, text and id of each event, in order."""
    last_event_id: str = ""
    retry_ms: int | None = None


def message(text: str, event_id: str = "") -> tuple[str, str, str]:
    return ("message", text, event_id)


CASES = [
    Case("W1", BOM + b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n", (message("1"), message("3"))),
    Case("W2", BOM + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n", (message("2"), message("3"))),
    Case(
        "W3",
        b"data:1\r:\0\n:\r\ndata:2\n:" + b"x" * 2048 + b"\rdata:3\n:data:fail\r:" + b"x" * 2048 + b"\ndata:4\n\n",
        (message("1\n2\n3\n4"),),
    ),
    # The id stands in a block that never ends, so it does not become the last event id.
    Case("W4", b"retry:1000\ndata:test1\n\nid:test\ndata:test2", (message("test1"),), retry_ms=1000),
    Case("W4.newline", b"retry:1000\ndata:test1\n\nid:test\ndata:test2\n", (message("test1"),), retry_ms=1000),
    Case("W5", b"data:\n\ndata\ndata\n\ndata:test\n\n", (message(""), message("\n"), message("test"))),
    Case("W6", b"event:test\ndata:x\n\ndata:x\n\n", (("test", "x", ""), message("x"))),
    Case("W6.spaces", b"event: test\ndata: x\n\ndata: x\n\n", (("test", "x", ""), message("x"))),
    Case("W7", b"event: \ndata:data\n\n", (message("data"),)),
    Case(
        "W8",
        b"id: \xe2\x80\xa6\nretry: 200\ndata: hello\n\n",
        (message("hello", "…"),),
        last_event_id="…",
        retry_ms=200,
    ),
    Case(
        "W9",
        b"id: 1\ndata: 1\n\ndata: 2\n\nid: 2\ndata:3\n\ndata:4\n\n",
        (message("1", "1"), message("2", "1"), message("3", "2"), message("4", "2")),
        last_event_id="2",
    ),
    Case(
        "W10.b",
        b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n",
        (message("1", "1"), message("2"), message("3")),
    ),
    Case(
        "W10.c",
        b"id: 1\ndata: 1\n\nid\ndata:2\n\ndata:3\n\n",
        (message("1", "1"), message("2"), message("3")),
    ),
    Case("W11.nul_nul", b"id:\0\0\ndata: hello\n\n", (message("hello"),)),
    Case("W11.x_nul", b"id:x\0\ndata: hello\n\n", (message("hello"),)),
    Case("W11.nul_x", b"id:\0x\ndata: hello\n\n", (message("hello"),)),
    Case("W11.x_nul_x", b"id:x\0x\ndata: hello\n\n", (message("hello"),)),
    Case("W11.space_nul", b"id: \0\ndata: hello\n\n", (message("hello"),)),
    Case(
        "W12",
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\r"
        b"data_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        (message("\0\n 2\n1\n3\n\n4"),),
    ),
    Case("W13", b"retry:02000\ndata:x\n\n", (message("x"),), retry_ms=2000),
    Case("W14", b"retry:2000\nretry:1000x\ndata:x\n\n", (message("x"),), retry_ms=2000),
    Case("W15", b"retry\ndata:test\n\n", (message("test"),)),
    Case(
        "W16",
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        (message("test\n\ntest"),),
    ),
    Case("W17", b"data:\ttest\rdata: \ndata:test\n\n", (message("\ttest\n\ntest"),)),
    Case("W18", b"data:test\r\ndata\ndata:test\r\n\r\n", (message("test\n\ntest"),)),
    Case("W19", b"data:\0\n\n\n", (message("\0"),)),
    Case("W20", b"data:ok\xe2\x80\xa6\n\n", (message("ok…"),)),
    Case(
        "W21",
        b"data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
        (message("msg\nmsg"), message(""), message("end")),
    ),
    Case("W22", b"data: cr\r\rdata: lf\n\ndata: crlf\r\n\r\n", (message("cr"), message("lf"), message("crlf"))),
    Case("W22.hello", b"data: hello\n\n", (message("hello"),)),
    Case("U1.spaces", b"data:   \n\n", (message("  "),)),
    Case("U1.colon", b"data: : \n\n", (message(": "),)),
    Case("U1.empty", b"data:\n\n", (message(""),)),
    Case("U2", b"data\n\ndata\ndata\n\ndata:", (message(""), message("\n"))),
    Case(
        "U3",
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        (message("first event", "1"), message("second event"), message(" third event")),
    ),
    Case("P1", b"data: A\r\ndata: B\r\ndata: C\r\n\n", (message("A\nB\nC"),)),
    Case("P2", b"id: 42\n\ndata: x\n\n", (message("x", "42"),), last_event_id="42"),
    Case("P3", b"id: 123\nid: bad\0id\ndata: hello\n\n", (message("hello", "123"),), last_event_id="123"),
    Case(
        "P4",
        b"data: a\xe2\x80\xa8b\xc2\x85c\x0b\x0cd\n\n",
        (message("a\u2028b\u0085c\x0b\x0cd"),),
    ),
    Case(
        "P5",
        "id:one\r\ndata:известни\r\n\ndata:two\n\rdata:unfinished".encode(),
        (message("известни", "one"), message("two", "one")),
        last_event_id="one",
    ),
    Case("X1", b"event: ping\n\ndata: {}\n\n", (message("{}"),)),
    Case("X2", b"retry: 10\n\ndata: {}\n\n", (message("{}"),), retry_ms=10),
    Case("X3.blank_lines", b"id: 1\ndata: {}\n\n\n\n", (message("{}", "1"),), last_event_id="1"),
    Case("X3.keep_alive", b"id: 1\ndata: {}\n\n: keep-alive\n\n", (message("{}", "1"),), last_event_id="1"),
    Case("X4.minus", b"retry: -5\n\n", ()),
    Case("X4.underscore", b"retry: 1_000\n\n", ()),
    Case("X4.plus", b"retry: +5\n\n", ()),
    Case("X4.arabic_digits", "retry: ١٢\n\n".encode(), ()),
    Case("X5.ff", b"data: a\xffb\n\n", (message("a\ufffdb"),)),
    Case("X5.cut_short", b"data: \xe2\x82\n\n", (message("\ufffd"),)),
    Case("X5.overlong", b"data: \xc0\xaf\n\n", (message("\ufffd\ufffd"),)),
    Case("X5.surrogate", b"data: \xed\xa0\x80\n\n", (message("\ufffd\ufffd\ufffd"),)),
    Case("X6.no_break_space", b"data:\xc2\xa0x\n\n", (message("\xa0x"),)),
    Case("X6.space_before_colon", b"data : x\n\n", ()),
    Case("X6.lines_that_look_blank", b"data: a\n \n\t\n\0\n\x0b\ndata: b\n\n", (message("a\nb"),)),
    Case("X6.bom", BOM + b"data: x\n\n", (message("x"),)),
    Case("X6.bom_cut_short", b"\xef\xbbdata: x\n\ndata: y\n\n", (message("y"),)),
    Case("X7.bom_alone", BOM, ()),
    Case("X7.empty", b"", ()),
    Case("X7.cr_alone", b"\r", ()),
]


def spellings() -> Iterator[tuple[str, Case]]:
    """Every case under its row name, and again with CRLF and CR where only LF ends its lines."""
    for case in CASES:
        yield case.row, case
        if b"\n" in case.data and b"\r" not in case.data:
            yield f"{case.row}-crlf", replace(case, data=case.data.replace(b"\n", b"\r\n"))
            yield f"{case.row}-cr", replace(case, data=case.data.replace(b"\n", b"\r"))
