"""LLM Engine as a gateway serves it: completions V1 with its frames, V2 without `[DONE]`, endpoints and health."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from asyncllm.testing import Comment, Op, Rst, SeenRequest, Sse, Status, sse_event
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.types import ToolCall, Usage

REQUEST_ID = "8bbd0e83-f94c-465b-a12b-aabad45750a9"
V1 = "/v1/llm/completions-"
ENDPOINTS: list[dict[str, Any]] = [
    {
        "id": "end_1",
        "name": "llama-2-7b",
        "model_name": "llama-2-7b",
        "source": "hugging_face",
        "status": "READY",
        "inference_framework": "vllm",
        "inference_framework_image_tag": "0.5.0",
        "spec": {"created_by": "somebody", "labels": {"team": "my-team"}},
    },
    {"id": None, "name": "llama-2-7b.my-suffix", "spec": None},
]


def frame(text: str | None, *, finished: bool = False, made: int | None = None, **fields: Any) -> dict[str, Any]:
    """A frame of a V1 stream; `fields` go into its output."""
    output: dict[str, Any] = {"text": text, "finished": finished, **fields}
    if made is not None:
        output["num_completion_tokens"] = made
    return {"request_id": REQUEST_ID, "output": None if text is None else output, "error": None}


def failure(status: int, message: str) -> dict[str, Any]:
    """The frame by which a V1 stream breaks off."""
    content = {"error": message, "timestamp": "2026-01-01 00:00:00.000000"}
    return {"request_id": REQUEST_ID, "output": None, "error": {"status_code": status, "content": content}}


def completion(text: str, *, made: int | None = None, **fields: Any) -> dict[str, Any]:
    """A whole V1 reply."""
    count = {} if made is None else {"num_completion_tokens": made}
    return {"request_id": REQUEST_ID, "output": {"text": text, **count, **fields}}


def streamed(*items: Any) -> list[Op]:
    """A stream as sse_starlette sends it: CRLF, pings, and no word at its end but the end."""
    return [Sse(items, "end", newline="\r\n", pings=[Comment("ping - 2026-01-01 00:00:00")])]


def gateway(request: SeenRequest) -> Sequence[Op]:
    """A gateway whose model says what it was told, a token a word."""
    path = request.path.partition("?")[0]
    if path.endswith(("/healthz", "/readyz", "/healthcheck")):
        return [Status(200)]
    if path.endswith("/v1/llm/model-endpoints"):
        return [Status(body=msgspec.json.encode({"model_endpoints": ENDPOINTS}))]
    if "/v1/llm/model-endpoints/" in path:
        found = [one for one in ENDPOINTS if path.endswith(f"/{one['name']}")]
        return [Status(body=msgspec.json.encode(found[0])) if found else refusal(404, "The specified endpoint is not")]
    asked = request.json()
    if V1 in path:
        return _complete(asked, stream=path.endswith("-stream"))
    return _v2(asked)


def refusal(status: int, detail: object) -> Status:
    """FastAPI's way to say no."""
    return Status(status, {"Content-Type": "application/json"}, msgspec.json.encode({"detail": detail}))


def _said(asked: dict[str, Any], text: str, limit: int) -> tuple[list[str], int]:
    for name, answer in (("guided_json", '{"answer": true}'), ("guided_regex", "yes"), ("guided_choice", "yes")):
        text = text if asked.get(name) is None else answer
    text = text if asked.get("guided_grammar") is None else "yes"
    for stop in asked.get("stop_sequences") or asked.get("stop") or ():
        text = text.partition(stop)[0]
    words = text.split(" ")
    pieces = [word if position == 0 else f" {word}" for position, word in enumerate(words[:limit])]
    return pieces, len(text) + 1


def _complete(asked: dict[str, Any], *, stream: bool) -> list[Op]:
    pieces, prompt_tokens = _said(asked, asked["prompt"], asked["max_new_tokens"])
    log_probs = [{"token": piece, "log_prob": -0.5} for piece in pieces]
    wanted = bool(asked.get("return_token_log_probs"))
    if not stream:
        tokens = {"tokens": log_probs} if wanted else {}
        reply = completion("".join(pieces), made=len(pieces), num_prompt_tokens=prompt_tokens, **tokens)
        return [Status(body=msgspec.json.encode(reply))]
    frames = [frame(piece, made=made) for made, piece in enumerate(pieces, 1)]
    for one, log_prob in zip(frames, log_probs, strict=True):
        one["output"]["token"] = log_prob if wanted else None
    frames[-1]["output"] |= {"finished": True, "num_prompt_tokens": prompt_tokens}
    return streamed(*frames)


def _v2(asked: dict[str, Any]) -> list[Op]:
    content = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    limit = asked.get("max_tokens", 10**6)
    pieces, prompt_tokens = _said(asked, text, limit)
    finish = "length" if len(pieces) == limit else "stop"
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(pieces)}
    head = {"id": "chatcmpl-fake", "model": asked["model"]}
    count, chunks = asked.get("n", 1), []
    whole = [_choice(asked, index, "".join(pieces), finish, "message") for index in range(count)]
    if not asked.get("stream"):
        return [Status(body=msgspec.json.encode({**head, "choices": whole, "usage": usage}))]
    for index in range(count):
        chunks += [{**head, "choices": [_choice(asked, index, piece, None, "delta")]} for piece in pieces]
        chunks.append({**head, "choices": [_choice(asked, index, "", finish, "delta")]})
    return streamed(*chunks, {**head, "choices": [], "usage": usage})


def _choice(asked: dict[str, Any], index: int, text: str, finish: str | None, holder: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": finish}
    if "prompt" in asked:
        return {**choice, "text": text}
    choice[holder] = {"role": "assistant", "content": text}
    if asked.get("logprobs") and text:
        tops = [{"token": text, "logprob": -0.5}] * asked.get("top_logprobs", 0)
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": tops}]}
    return choice


class Jobs:
    """A gateway that works off batches too: each look at a job moves it one step further.

    Its model repeats what it is told, and refuses what begins with `refuse`. `put` is where outcomes are written.
    """

    def __init__(self, *steps: str, put: Callable[[str, bytes], object] | None = None) -> None:
        self.steps = steps or ("queued", "running", "completed")
        self.files: dict[str, bytes] = {}
        self._put = put or self.files.__setitem__
        self.jobs: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, dict[str, Any]] = {}
        self.lose: list[str] = []
        """What happens to the next creations: `before` it, or `after` it, the connection goes; `500` is an answer."""
        self.truncate: list[int] = []
        """After how many bytes the next files break off, one each."""
        self.created = 0

    def finish(self) -> None:
        """Every job is over."""
        for id_ in self.jobs:
            self._move(id_, self.steps[-1])

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        parts = request.path.removeprefix("/llm-engine").strip("/").split("/")
        match request.method, *parts:
            case "POST", "v1", "llm", "batch-completions":
                return self._create(request, is_v1=True)
            case "POST", "v2", "batch-completions":
                return self._create(request, is_v1=False)
            case "GET", "v2", "batch-completions", id_ if id_ in self.jobs:
                status = self.jobs[id_]["status"]
                if status in self.steps:
                    self._move(id_, self.steps[min(self.steps.index(status) + 1, len(self.steps) - 1)])
                return [Status(body=msgspec.json.encode({"job": self.jobs[id_]}))]
            case "POST", "v2", "batch-completions", id_, "actions", "cancel":
                goes_on = id_ in self.jobs and self.jobs[id_]["status"] in ("queued", "running")
                if goes_on:
                    self._move(id_, "cancelled")
                return [Status(body=msgspec.json.encode({"success": goes_on}))]
            case _, *_ if "batch-completions" in parts:
                return [refusal(404, "The specified job is not found")]
            case _:
                return gateway(request)

    def _create(self, request: SeenRequest, *, is_v1: bool) -> Sequence[Op]:
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "before":
            return [Rst()]
        asked = request.json()
        self.created += 1
        id_ = f"job_{self.created}"
        self.jobs[id_] = {
            "job_id": id_, "input_data_path": asked.get("input_data_path"), "status": self.steps[0],
            "output_data_path": asked["output_data_path"], "model_config": str(asked["model_config"]),
            "priority": asked.get("priority"), "created_at": "2026-01-01T00:00:00", "completed_at": None,
            "expires_at": "2026-01-02T00:00:00", "metadata": {"labels": {"deep": []}},
        }  # fmt: skip
        self._asked[id_] = asked
        if fate == "after":
            return [Rst()]
        if fate:
            return [refusal(int(fate), "it broke")]
        return [Status(body=msgspec.json.encode({"job_id": id_} if is_v1 else self.jobs[id_]))]

    def _move(self, id_: str, status: str) -> None:
        """A job is at `status`; one that is completed has its outcomes written, unless its items are in a file."""
        was, self.jobs[id_]["status"] = self.jobs[id_]["status"], status
        asked = self._asked[id_]
        if status == was or status != "completed" or "content" not in asked:
            return
        content = msgspec.json.encode([*_worked_off(asked["content"])])
        self._put(asked["output_data_path"], content[: self.truncate.pop(0)] if self.truncate else content)


def _worked_off(content: Any) -> Iterator[dict[str, Any]]:
    """Outcomes of the content of a batch: V1's of an object, V2's of a list."""
    if isinstance(content, dict):
        for prompt in content["prompts"]:
            yield _body(_complete({**content, "prompt": prompt}, stream=False))["output"]
        return
    for asked in content:
        told = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
        if told.startswith("refuse"):
            message = f"this is refused: {told}"
            yield {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
            continue
        yield _body(_v2(asked))


def _body(ops: Sequence[Op]) -> Any:
    (reply,) = ops
    assert isinstance(reply, Status)
    assert reply.body is not None
    return msgspec.json.decode(reply.body)


class V1Dialect:
    """The frames of completions V1, whose last one says that it has finished."""

    prefix = ""
    content_type = "text/event-stream"
    model = "some-model"
    request_id = REQUEST_ID

    def start(self) -> bytes:
        """A frame without text."""
        return _event(frame(""))

    def text(self, text: str, index: int = 0) -> bytes:
        """A frame with text; there is one choice alone."""
        del index
        return _event(frame(text))

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """Completions call no tools."""
        del position, call_id, name, arguments
        return b""

    def usage(self, usage: Usage) -> bytes:
        """A frame that counts."""
        return _event(frame("", made=usage.output_tokens, num_prompt_tokens=usage.input_tokens))

    def finish(self, index: int = 0) -> bytes:
        """One more frame: what ends a choice ends the stream."""
        del index
        return _event(frame(""))

    def end(self) -> bytes:
        """The frame that says that the completion has finished."""
        return _event(frame("", finished=True))

    def error(self, message: str) -> bytes:
        """A frame with an error."""
        return _event(failure(500, message))

    def keep_alive(self) -> bytes:
        """A comment, as sse_starlette sends it."""
        return b": ping - 2026-01-01 00:00:00\n\n"

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """A whole completion, which calls no tools."""
        del calls
        counts = {} if usage is None else {"made": usage.output_tokens, "num_prompt_tokens": usage.input_tokens}
        return msgspec.json.encode(completion("".join(texts[:1]), **counts))


class V2Dialect(OpenAIDialect):
    """OpenAI's chunks, which end where they are closed: `[DONE]` is filtered out on the way."""

    prefix = ""

    def end(self) -> bytes:
        """A comment: there is no word for the end."""
        return b": end\n\n"

    def error(self, message: str) -> bytes:
        """The error of the upstream service in a frame."""
        content = {"error": message, "timestamp": "2026-01-01 00:00:00.000000"}
        return _event({"error": {"status_code": 500, "content": content}})


def _event(document: dict[str, Any]) -> bytes:
    return sse_event(msgspec.json.encode(document))


__all__ = [
    "ENDPOINTS", "REQUEST_ID", "Jobs", "V1Dialect", "V2Dialect", "completion", "failure", "frame", "gateway",
    "refusal", "streamed",
]  # fmt: skip
