"""The nouns of every call: messages, tools, sampling, requests, responses.

Frozen msgspec structs without I/O. An option that was not given is `msgspec.UNSET`, which never reaches the wire;
`None` appears only where it means "the backend did not say". Sampling names are OpenAI's where OpenAI has one and
vLLM's where it does not.

One file, longer than most: whoever reads a call reads its nouns together.

What a struct holds of prompts, outputs and keys stays out of its `repr`: such fields show their size alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypedDict, cast, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from asyncllm.errors import ConfigError, InvalidRequestError

__all__ = [
    "AudioPart",
    "Choice",
    "Constraint",
    "ContentPart",
    "Embeddings",
    "Failure",
    "FilePart",
    "FinishReason",
    "Grammar",
    "ImagePart",
    "JsonSchema",
    "Limits",
    "Message",
    "ModelInfo",
    "Price",
    "PriceTier",
    "PromptCheck",
    "ReasoningBlock",
    "Regex",
    "Request",
    "Response",
    "ResponseChoice",
    "Role",
    "Sampling",
    "SamplingOptions",
    "TextPart",
    "Timeouts",
    "Timings",
    "TokenLogprob",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Usage",
    "are_token_ids",
]

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "error"]
"""Why a choice ended, normalised; `finish_reason_raw` beside it keeps the backend's own word."""

ToolChoice: TypeAlias = str
"""`auto`, `none` or `required`; any other string is the name of the one tool that must be called."""

_EMPTY: tuple[object, ...] = ("", (), {})
_ROLES: frozenset[str] = frozenset(get_args(Role))


def are_token_ids(values: Iterable[object]) -> bool:
    """Whether these may be token ids: whole numbers from 0 on, of 31 bits as tokenizers have them."""
    return all(type(one) is int and 0 <= one < 2**31 for one in values)


def _sized(value: Any) -> str:
    """What a repr may say of private content: its kind and its size."""
    if isinstance(value, str):
        return f"<{len(value)} chars>"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Sequence):
        return f"<{len(cast('Sequence[object]', value))} items>"
    return f"<{type(value).__name__}>"


class Noun(Struct, frozen=True):
    """Base of the structs that may hold prompts or outputs: fields named in `_private` show their size alone."""

    _private: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self._shown())

    def _shown(self) -> Iterator[tuple[str, str]]:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is UNSET or value is None or value in _EMPTY:
                continue
            yield name, _sized(value) if name in self._private else repr(value)


# -- what a prompt is made of ------------------------------------------------------------------------------------


class TextPart(Noun, frozen=True, tag_field="type", tag="text"):
    """Text inside a message of several parts."""

    text: str

    _private = frozenset({"text"})


class ImagePart(Noun, frozen=True, tag_field="type", tag="image"):
    """An image, by URL or as bytes: exactly one of `url` and `data`."""

    url: str | UnsetType = UNSET
    """An address that the backend can fetch, or a `data:` URL."""
    data: bytes | UnsetType = UNSET
    """The encoded file itself, for instance the bytes of a PNG."""
    media_type: str = "image/png"
    """MIME type of `data`."""
    detail: str | UnsetType = UNSET
    """OpenAI's `low`, `high` or `auto`."""

    _private = frozenset({"url", "data"})

    def __post_init__(self) -> None:
        if (self.url is UNSET) == (self.data is UNSET):
            raise InvalidRequestError("an image part takes exactly one of url= and data=", field="url")

    @property
    def as_url(self) -> str:
        """The address given, or the bytes as a `data:` URL."""
        return self.url if isinstance(self.url, str) else _data_url(self.data, self.media_type)


class AudioPart(Noun, frozen=True, tag_field="type", tag="audio"):
    """Recorded sound as bytes of an encoded file."""

    data: bytes
    format: str = "wav"
    """`wav` or `mp3`, as the backend takes them."""

    _private = frozenset({"data"})


class FilePart(Noun, frozen=True, tag_field="type", tag="file"):
    """A document, as bytes or by the id of an uploaded file: exactly one of `data` and `file_id`."""

    data: bytes | UnsetType = UNSET
    file_id: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET
    media_type: str = "application/pdf"

    _private = frozenset({"data", "filename"})

    def __post_init__(self) -> None:
        if (self.data is UNSET) == (self.file_id is UNSET):
            raise InvalidRequestError("a file part takes exactly one of data= and file_id=", field="data")

    @property
    def as_url(self) -> str:
        """The bytes as a `data:` URL."""
        return _data_url(self.data, self.media_type)


def _data_url(data: bytes | UnsetType, media_type: str) -> str:
    assert isinstance(data, bytes)  # each part checks on construction that it has one of its two sources
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


ContentPart: TypeAlias = TextPart | ImagePart | AudioPart | FilePart


class ToolCall(Noun, frozen=True):
    """A call that the model asks for. `arguments` is its JSON text, which a model can get wrong."""

    id: str
    name: str
    arguments: str
    signature: str | None = None
    """What the provider wants to see again with this call, as Gemini does its thought signature. Nobody reads it."""

    _private = frozenset({"arguments", "signature"})

    def parse_arguments(self) -> Any:
        """Decode `arguments`, an empty text as no arguments.

        Raises `ValueError` (`msgspec.DecodeError`) where the model wrote something that is not JSON.
        """
        return msgspec.json.decode(self.arguments) if self.arguments.strip() else {}


class ReasoningBlock(Noun, frozen=True):
    """A piece of a model's thinking in its provider's own form, sealed or signed, to be sent back unchanged."""

    dialect: str
    """Whose form it is, such as `anthropic`. Only a backend that speaks it sends it back."""
    data: dict[str, Any]
    """The JSON object as received."""

    _private = frozenset({"data"})


class Message(Noun, frozen=True):
    """One turn of a conversation, in either direction."""

    role: Role
    content: str | Sequence[ContentPart] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that an assistant turn asks for."""
    tool_call_id: str | None = None
    """In a `tool` turn: the call that `content` answers."""
    name: str | None = None
    """Tells participants of the same role apart."""
    reasoning: str | None = None
    """The model's visible thinking; some backends want it sent back with tool results."""
    refusal: str | None = None
    """The model's own words for not answering."""
    reasoning_blocks: tuple[ReasoningBlock, ...] = ()
    """What the provider wants to see again of an assistant's thinking, in order."""
    is_error: bool = False
    """In a `tool` turn: the call failed, and `content` says how. OpenAI's API and its like have no place for it beside
    that text."""

    _private = frozenset({"content", "reasoning", "refusal"})

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise InvalidRequestError(
                f"unknown role {str(self.role)[:40]!r}; a role is one of {', '.join(sorted(_ROLES))}", field="role"
            )

    @property
    def text(self) -> str:
        """All text of the message, parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class Tool(Noun, frozen=True):
    """A function that the model may ask to have called."""

    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET
    """JSON schema of the arguments, an object."""
    strict: bool | UnsetType = UNSET
    """Ask the backend to hold the arguments to the schema."""

    _private = frozenset({"description", "parameters"})


# -- how to answer -----------------------------------------------------------------------------------------------


class JsonSchema(Noun, frozen=True, tag_field="type", tag="json_schema"):
    """Constrain the answer to JSON that fits `schema`."""

    schema: dict[str, Any]
    name: str = "answer"
    strict: bool | UnsetType = UNSET
    """OpenAI's strict mode, which accepts a subset of JSON schema and then guarantees it."""
    instruction: str | UnsetType = UNSET
    """What asks for the same in words. A backend that cannot hold an answer to a schema is sent this in the system text
    of a chat, in place of the constraint; where it is unset, such a backend refuses the call."""

    _private = frozenset({"schema", "instruction"})


class Regex(Noun, frozen=True, tag_field="type", tag="regex"):
    """Constrain the answer to a regular expression, matched against the whole of it."""

    pattern: str

    _private = frozenset({"pattern"})


class Choice(Noun, frozen=True, tag_field="type", tag="choice"):
    """Constrain the answer to one of `options`, literally."""

    options: Sequence[str]

    _private = frozenset({"options"})

    def __post_init__(self) -> None:
        if not self.options or isinstance(self.options, str):
            raise InvalidRequestError("Choice takes a list of at least one string", field="options")


class Grammar(Noun, frozen=True, tag_field="type", tag="grammar"):
    """Constrain the answer to a context-free grammar, in the notation that the backend reads (GBNF, EBNF, Lark)."""

    grammar: str

    _private = frozenset({"grammar"})


Constraint: TypeAlias = JsonSchema | Regex | Choice | Grammar
"""What the answer must be. One at a time: a call takes a single `constraint`."""

_Count: TypeAlias = Annotated[int, Meta(ge=1)]
_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
_StopText: TypeAlias = Annotated[str, Meta(extra_json_schema={"minLength": 1})]
_TOKEN_IDS = {"propertyNames": {"pattern": "^[0-9]+$"}}


class Sampling(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen and when to stop. What is not set is the backend's business and stays off the wire."""

    max_tokens: _Count | UnsetType = UNSET
    """Output tokens at most, reasoning included."""
    temperature: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    stop: _StopText | tuple[_StopText, ...] | UnsetType = UNSET
    """Texts that end the answer; they are not part of it unless `include_stop_str_in_output` is set."""
    seed: int | UnsetType = UNSET
    presence_penalty: _Penalty | UnsetType = UNSET
    frequency_penalty: _Penalty | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET
    top_logprobs: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    """Alternatives a token, most likely first; asks for `logprobs` too."""
    n: _Count | UnsetType = UNSET
    """Independent answers to the same prompt."""
    logit_bias: Annotated[dict[str, float], Meta(extra_json_schema=_TOKEN_IDS)] | UnsetType = UNSET
    """Token id, as text, to the bias added to its logit."""
    reasoning_effort: str | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    min_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    repetition_penalty: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    min_tokens: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    ignore_eos: bool | UnsetType = UNSET
    include_stop_str_in_output: bool | UnsetType = UNSET
    stop_token_ids: tuple[int, ...] | UnsetType = UNSET

    _private = frozenset({"stop"})

    def __post_init__(self) -> None:
        if self.stop is not UNSET and "" in ((self.stop,) if isinstance(self.stop, str) else self.stop):
            raise InvalidRequestError("an empty stop text would end every answer before it begins", field="stop")
        if self.logit_bias is not UNSET:
            for token in self.logit_bias:
                if not (token.isascii() and token.isdigit()):
                    raise InvalidRequestError("logit_bias takes token ids, as in {'504': -100}", field="logit_bias")


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments of a call."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: str | Sequence[str]
    seed: int
    presence_penalty: float
    frequency_penalty: float
    logprobs: bool
    top_logprobs: int
    n: int
    logit_bias: dict[str, float]
    reasoning_effort: str
    top_k: int
    min_p: float
    repetition_penalty: float
    min_tokens: int
    ignore_eos: bool
    include_stop_str_in_output: bool
    stop_token_ids: Sequence[int]


class Timeouts(Noun, frozen=True, kw_only=True):
    """Deadlines of one call, in seconds; `None` waits for ever. Each has an error of its own."""

    connect_s: float | None = 5
    """Name look-up, connection and TLS: `ConnectTimeoutError`."""
    pool_s: float | None = 60
    """Waiting for a slot that `Limits` allow: `PoolTimeoutError`."""
    first_event_s: float | None = 600
    """From sending the request to the first piece of the answer: `FirstEventTimeoutError`."""
    event_idle_s: float | None = 300
    """Between two events of a stream; keep-alive comments are not events: `EventIdleTimeoutError`."""
    byte_idle_s: float | None = 60
    """Between two reads of a running reply, keep-alive comments included: `ByteIdleTimeoutError`."""
    total_s: float | None = None
    """The whole call, with retries and the waits between them: `TotalTimeoutError`."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            seconds = getattr(self, name)
            # A bool is an int, and NaN compares false with everything: say what is right, not what is wrong.
            if seconds is not None and not (type(seconds) in (int, float) and seconds > 0):
                raise ConfigError(
                    f"{name} is a number of seconds above zero, or None for no limit; got {seconds!r}", field=name
                )


class Limits(Noun, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be asked of a deployment; `None` sets no limit. Each deployment of a client keeps its own count."""

    concurrency: int | None = None
    """Calls under way at once."""
    requests_per_minute: int | None = None
    """Attempts in any 60 seconds."""
    tokens_per_minute: int | None = None
    """Tokens in any 60 seconds: estimated before a call, corrected by the usage it reports."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            limit = getattr(self, name)
            if limit is not None and (type(limit) is not int or limit < 1):
                raise ConfigError(
                    f"{name} is a whole number from 1 up, or None for no limit; got {limit!r}", field=name
                )


class Request(Noun, frozen=True, kw_only=True, gc=False):
    """One generation, as a backend receives it. A chat has `messages`, a text completion has `prompt`."""

    model: str
    """The model in the backend's own naming."""
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | UnsetType = UNSET
    """Text, or token ids of the model's own tokenizer."""
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | UnsetType = UNSET
    parallel_tool_calls: bool | UnsetType = UNSET
    constraint: Constraint | None = None
    stream: bool = False
    """Whether the caller wants the answer piece by piece. If not, a backend may ask for it whole."""
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}
    """Options that only this provider knows, sent as they are."""
    idempotency_key: str | None = None
    """The same for every attempt at one call, so that a server which knows such keys answers it once."""

    _private = frozenset({"messages", "prompt", "tools", "extra", "idempotency_key"})

    @property
    def is_chat(self) -> bool:
        """Whether this is a chat rather than a text completion."""
        return self.prompt is UNSET


# -- what comes back ---------------------------------------------------------------------------------------------

_Tokens: TypeAlias = Annotated[int, Meta(ge=0)] | None


class Usage(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """What one call consumed, as the backend reported it.

    Counts are in the serving model's own tokens: add them within a model, never across. `None` means the backend
    did not say, which is not the same as zero.
    """

    input_tokens: _Tokens = None
    """Prompt tokens, cached and audio ones included."""
    output_tokens: _Tokens = None
    """Generated tokens of all choices, reasoning and audio ones included."""
    cached_tokens: _Tokens = None
    """The share of `input_tokens` read from a prefix cache."""
    cache_write_tokens: _Tokens = None
    """The share of `input_tokens` written to a prefix cache, where that is counted apart."""
    reasoning_tokens: _Tokens = None
    """The share of `output_tokens` spent on reasoning."""
    input_audio_tokens: _Tokens = None
    """The share of `input_tokens` that was sound."""
    output_audio_tokens: _Tokens = None
    """The share of `output_tokens` that is sound."""
    audio_s: float | None = None
    """Seconds of sound that were heard or made."""
    images: int | None = None
    """Pictures that were made."""
    characters: int | None = None
    """Characters that were spoken, where they and not tokens are counted."""
    video_s: float | None = None
    """Seconds of film that were made."""
    cost_usd: float | None = None
    """US dollars that the service itself says it has charged."""

    @property
    def total_tokens(self) -> int | None:
        """Input and output together, or `None` where either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


class Timings(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """What the engine itself measured of a call, in seconds; `None` means that it did not say."""

    queue_s: float | None = None
    """In the engine's queue, before the prompt was read."""
    first_token_s: float | None = None
    """From handing the call over to its first token."""
    token_s: float | None = None
    """Between two tokens after that, on average."""


_Usd: TypeAlias = Annotated[float, Meta(ge=0)] | None


class Rates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """US dollars for a million tokens of each kind; `None` where a kind costs what all of its direction does."""

    input_usd: _Usd = None
    output_usd: _Usd = None
    cached_usd: _Usd = None
    """For input read from a prefix cache."""
    cache_write_usd: _Usd = None
    """For input written to a prefix cache."""
    input_audio_usd: _Usd = None
    output_audio_usd: _Usd = None
    output_image_usd: _Usd = None
    """For the output of a call that made images, all of it: usage does not tell what of it is text."""
    reasoning_usd: _Usd = None
    """For output spent on reasoning."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            usd = getattr(self, name)
            if name.endswith(("_usd", "_minute", "_second")) and not _is_price(usd):
                raise ConfigError(f"{name} is a number of US dollars from zero up; got {usd!r}", field=name)


class PriceTier(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What other rates hold for a call with a long prompt, for all of its tokens. A rate left out stays as it is."""

    above_tokens: Annotated[int, Meta(ge=0)]
    """Input tokens above which this holds."""


class Price(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in US dollars: tokens by the million, and whatever else its calls are charged by."""

    audio_usd_per_minute: _Usd = None
    """For sound that was heard or made."""
    image_usd: _Usd = None
    """For one image."""
    characters_usd: _Usd = None
    """For a million characters of text that was read aloud."""
    video_usd_per_second: _Usd = None
    """For film that was made."""
    request_usd: _Usd = None
    """For a call, beside what it consumes."""
    tiers: tuple[PriceTier, ...] = ()
    """Rates of long prompts, in any order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if all(getattr(self, name) is None for name in _CHARGED):
            raise ConfigError(f"a price has at least one of {', '.join(_CHARGED)}", field="input_usd")

    def cost_usd(self, usage: Usage) -> float | None:
        """US dollars for `usage`, or `None` where it does not say enough, or counts tokens that have no rate."""
        units = self._units_usd(usage)
        tokens = self._tokens_usd(usage, every_kind=units is None)
        if tokens is None and units is None:
            only_calls = self.request_usd is not None and self.input_usd is None and self.output_usd is None
            return self.request_usd if only_calls else None
        return (tokens or 0.0) + (units or 0.0) + (self.request_usd or 0.0)

    def _units_usd(self, usage: Usage) -> float | None:
        """What is charged by another measure than tokens."""
        cost = None
        if self.audio_usd_per_minute is not None and usage.audio_s is not None:
            cost = self.audio_usd_per_minute * usage.audio_s / 60
        if self.image_usd is not None and usage.images is not None:
            cost = (cost or 0.0) + self.image_usd * usage.images
        if self.characters_usd is not None and usage.characters is not None:
            cost = (cost or 0.0) + self.characters_usd * usage.characters / 1_000_000
        if self.video_usd_per_second is not None and usage.video_s is not None:
            cost = (cost or 0.0) + self.video_usd_per_second * usage.video_s
        return cost

    def _tokens_usd(self, usage: Usage, *, every_kind: bool) -> float | None:
        """What is charged by tokens; `every_kind` is whether nothing else can stand for tokens without a rate."""
        given, made = _counted(usage.input_tokens), _counted(usage.output_tokens)
        rates = self._rates(given or 0) if self.tiers else self
        reading, writing = rates.input_usd, rates.output_usd
        if usage.images and rates.output_image_usd is not None:
            writing = rates.output_image_usd
        if (reading is None and writing is None) or (given is None and reading) or (made is None and writing):
            return None
        if every_kind and ((given and reading is None) or (made and writing is None)):
            return None
        cost = (given or 0) * (reading or 0.0) + (made or 0) * (writing or 0.0)
        if reading is not None:
            # Shares of the tokens: a server that counts more of them than there are must not be paid for it.
            cached = min(_counted(usage.cached_tokens) or 0, given or 0)
            written = min(_counted(usage.cache_write_tokens) or 0, (given or 0) - cached)
            # Cached sound is counted once, as cached.
            sound = min(_counted(usage.input_audio_tokens) or 0, (given or 0) - cached - written)
            cost += _extra(cached, rates.cached_usd, reading) + _extra(written, rates.cache_write_usd, reading)
            cost += _extra(sound, rates.input_audio_usd, reading)
        if writing is not None:
            thought = min(_counted(usage.reasoning_tokens) or 0, made or 0)
            cost += _extra(thought, rates.reasoning_usd, writing)
            spoken = min(_counted(usage.output_audio_tokens) or 0, (made or 0) - thought)
            cost += _extra(spoken, rates.output_audio_usd, writing)
        return cost / 1_000_000

    def _rates(self, given: int) -> Rates:
        """What holds for a prompt of that many tokens."""
        tier = max(
            (one for one in self.tiers if given > one.above_tokens), key=lambda one: one.above_tokens, default=None
        )
        if tier is None:
            return self
        changed = {name: usd for name in Rates.__struct_fields__ if (usd := getattr(tier, name)) is not None}
        return msgspec.structs.replace(self, **changed)


_CHARGED = (
    "input_usd", "output_usd", "audio_usd_per_minute", "image_usd", "characters_usd", "video_usd_per_second",
    "request_usd",
)  # fmt: skip


def _is_price(usd: object) -> bool:
    return usd is None or (type(usd) in (int, float) and 0 <= cast("float", usd) < float("inf"))


def _counted(tokens: int | None) -> int | None:
    """`tokens`, unless it is a number of which there can be none."""
    return None if tokens is None or tokens < 0 else tokens


def _extra(tokens: int, rate: float | None, usual: float) -> float:
    """What tokens of a kind cost beyond what they would cost at the rate of all."""
    return tokens * (rate - usual) if rate is not None else 0.0


class Failure(Noun, frozen=True, kw_only=True):
    """An attempt at a call that failed, of a call that was answered in the end."""

    error: str
    """Name of the error's class, as in `asyncllm.errors`."""
    backend: str | None = None
    model: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None


class TokenLogprob(Noun, frozen=True):
    """One generated token with its natural-log probability, and its rivals, most likely first."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    """UTF-8 bytes of the token, which may be part of a character."""
    top: tuple[TokenLogprob, ...] = ()

    _private = frozenset({"token", "bytes", "top"})


class ResponseChoice(Noun, frozen=True):
    """One answer."""

    index: int
    message: Message
    finish_reason: FinishReason | None = None
    """`None` where the backend ended the reply without saying why, or the reply is partial."""
    finish_reason_raw: str | None = None
    """The backend's own word."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop: str | None = None
    """The stop text that it ended at, where the backend says so."""

    _private = frozenset({"logprobs", "stop"})


_NO_CHOICE = ResponseChoice(0, Message("assistant"))


class Response(Noun, frozen=True, kw_only=True):
    """A reply, folded from its events. The properties speak of the choice with the lowest index."""

    choices: tuple[ResponseChoice, ...] = ()
    """Answers in order of their index."""
    usage: Usage = Usage()
    model: str | None = None
    """The model that answered, as the backend names it."""
    backend: str | None = None
    """The backend that answered."""
    request_id: str | None = None
    """The backend's id for the call."""
    cost_usd: float | None = None
    """US dollars: what the service says it has charged, else by the price that is known; `None` without either."""
    queue_s: float = 0
    """Seconds that the call waited for a slot of the client's own `Limits`."""
    failures: tuple[Failure, ...] = ()
    """Attempts that failed before the one that answered, oldest first; answers that were not of the `output_type` and
    were asked for again are among them."""
    cached: bool = False
    """Whether a cache of the client answered, and no model."""
    parsed: Any = None
    """The answer decoded to the `output_type` of the call."""
    skipped: int = 0
    """Parts of the stream that could not be read and are missing here. Above zero only where a backend was told to go
    on without them, as with `on_bad_event="skip"`."""
    timings: Timings | None = None
    """What the engine measured, where it runs inside this process."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the prompt's tokens but the first, where a backend was asked for them."""
    body: bytes | None = None
    """The JSON body as received, for a call that was not streamed over HTTP."""

    _private = frozenset({"parsed", "body", "prompt_logprobs"})

    @property
    def _first(self) -> ResponseChoice:
        return self.choices[0] if self.choices else _NO_CHOICE

    @property
    def text(self) -> str:
        """Text of the answer; empty where there is none, for instance beside tool calls."""
        return self._first.message.text

    @property
    def reasoning(self) -> str | None:
        """The model's visible thinking."""
        return self._first.message.reasoning

    @property
    def refusal(self) -> str | None:
        """The model's own words for not answering."""
        return self._first.message.refusal

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Calls that the answer asks for."""
        return self._first.message.tool_calls

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended."""
        return self._first.finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Log probabilities of the answer's tokens, where the call asked for them."""
        return self._first.logprobs

    @property
    def raw(self) -> Any:
        """`body` decoded, for what this struct does not carry; `None` without a body."""
        return None if self.body is None else msgspec.json.decode(self.body)


class Embeddings(Noun, frozen=True, kw_only=True):
    """One vector a text, in the order given: `len`, indexing and iteration are those of `vectors`."""

    vectors: tuple[Sequence[float], ...]
    """float32 rows of equal width."""
    usage: Usage = Usage()
    model: str | None = None
    cost_usd: float | None = None
    """US dollars, or `None` where no price is known."""

    _private = frozenset({"vectors"})

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Sequence[float]:
        return self.vectors[index]

    def __iter__(self) -> Iterator[Sequence[float]]:
        return iter(self.vectors)


class PromptCheck(Struct, frozen=True, kw_only=True):
    """Whether a prompt fits the model, by the backend's own count: truthy if it does."""

    tokens: int
    """Prompt tokens, chat template included."""
    limit: int | None
    """Tokens that the model takes in one call, prompt and answer together; `None` where there is no limit."""
    max_tokens: int = 0
    """Room asked for the answer."""

    def __bool__(self) -> bool:
        return self.limit is None or self.tokens + self.max_tokens <= self.limit


class Tokens(Noun, frozen=True, kw_only=True):
    """What a model's tokenizer makes of a prompt: `len` is how many there are."""

    ids: tuple[int, ...]
    limit: int | None = None
    """Tokens that the model takes in one call, prompt and answer together, where the backend says so."""

    _private = frozenset({"ids"})

    def __len__(self) -> int:
        return len(self.ids)


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A model that a backend offers."""

    id: str
    name: str | None = None
    """What people call it, where the backend tells its ids and its names apart."""
    owned_by: str | None = None
    context_tokens: int | None = None
    """Prompt and answer together, where the backend says so."""
