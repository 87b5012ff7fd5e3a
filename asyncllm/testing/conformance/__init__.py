"""The checks that every backend passes, first-party or not.

    class TestMine(BackendConformance):
        name = "mine"                   # as registered, or override `connect`
        model = "some-model"
        base_url = "http://..."         # or override `make_backend` to start a server first
        dialect = OpenAIDialect()       # of a backend over HTTP: what its service sends

Each check is a method of its own: it makes a fresh event loop and a fresh backend in it, runs, and fails on whatever
is left behind as well: tasks, warnings, exceptions that nobody saw. pytest finds the methods of a subclass whose name
begins with `Test`; no pytest plugin is needed, and none of the checks skips: what a backend does not have, it is
asserted to refuse by name, and checks that do not apply are not there: of a subject without a `dialect`, those that
need one, of one without a `batch_service`, those of batches, and of one whose `speaks_http` is `False`, those of what a
service may answer. `Subject` says what else can be set; nothing but `name` and `model` must be.

What is promised, by area:

Connecting and closing
    connecting needs no running loop and opens nothing
    a backend that was never used can be closed
    closing twice is closing once
    closing with a stream open does not hang
    a call after closing does not hang
    two event loops in a row each have a backend
    closing by several at once is closing once
    a close that was cancelled can be made up for
    a backend made outside of a loop serves inside of one

What a call yields
    a call yields events that fold to a complete response
    each choice has one finished after its last delta
    nothing comes after the last finished
    streamed or not the answer is of one kind
    no delta is empty
    usage is plausible or unknown
    a conversation of several turns is answered
    every character is taken
    half a character is taken or refused by a typed error
    eight calls at once do not mix
    the event loop keeps turning

What a request means
    an answer that max tokens cuts says so
    a stop text ends the answer and is not in it
    several choices have an index and an end each
    log probabilities belong to the text
    every event is what its type says
    a request is not changed
    a message in parts is its text
    an empty prompt is answered or refused by a typed error
    a huge prompt is answered or refused as too long
    a running call shows neither key nor prompt
    a prompt is counted alike streamed or whole

Options
    every option is honoured or refused by name
    an option that is not set is not missed

Calls beside `open`
    a prompt is counted or the count refused
    tokens are told and read again or refused
    texts are embedded in order or refused
    models are listed or the list refused
    a backend that answers says that it is alive
    a job is worked off or refused
    a client gets the same answer

Ways out of a call
    leaving after the first event frees the call
    leaving without reading frees the call
    an exception in the block frees the call and passes
    cancelling the task frees the call
    a call cancelled at any step frees what it holds
    a deadline of asyncio frees the call
    a cancelled scope of anyio frees the call
    a deadline of anyio frees the call
    entering when already cancelled frees the call
    a stream left while others run does not touch them

Whole replies, dropped streams, and how soon a call is over
    a whole reply that is cancelled frees the call
    a whole reply in a cancelled scope frees the call
    a whole reply past a deadline frees the call
    a stream that its reader drops frees the call
    leaving a call takes no time
    reading on after leaving does not hang

Deadlines of `Timeouts`, through a client
    a late first event is a first event timeout
    a pause between events is an event idle timeout
    a call over its total is a total timeout

Many calls at once
    a crowd of calls is answered each with its own
    cancelling some of a crowd does not disturb the others
    closing under load ends every call
    one request serves many calls

What grows
    many calls leave no file and no thread
    many calls leave no memory

Errors
    a model that cannot answer is a typed error
    a refused option is an error that travels and says nothing private
    a backend does not show its key
    nothing private is logged

What a refusal of the service means (with `speaks_http`)
    an error status is an error of its class
    a reply that is broken is never an answer
    each status has its class and says whether to try again
    a code that says more than the status is heard
    the wait that a service asks for is told
    the id of a call that failed is told
    an error that says nothing still has its status
    every other call fails by the same classes

Framing (with a `dialect`, as are those below)
    a stream that is cut in two anywhere reads the same
    a stream that comes byte by byte reads the same
    every kind of line end ends a line
    a byte order mark is not part of a stream
    comments and fields that nobody knows are no events
    characters that only look like line ends are kept
    a stream without its last blank line is whole or interrupted
    a stream that ends early is interrupted
    what came before a cut is delivered
    an error in a stream comes after what was said
    a stream is over at its end
    each piece is delivered when it comes
    an event of a megabyte is read
    a whole answer in place of a stream is read or refused
    a whole reply that ends early is no answer

Fragments of tool calls
    arguments that are cut anywhere are one call
    a call may name itself once or in every piece
    two calls that come in turns stay apart
    calls without an id are kept and get one
    tool calls are the same streamed or whole
    a tool call and its result reach the service

What a reply says
    usage is what the service tells
    usage that the service does not tell is unknown
    usage that is told again is not added up
    the model and the id of a reply are told
    an answer without a word is an answer
    every character of an answer arrives
    choices that come in turns stay apart
    a call after one that failed is answered

A service that stalls
    a service that never begins is a first event timeout
    a stream that stops is an event idle timeout
    a call that takes too long is a total timeout
    silence of the network is a byte idle timeout
    a service that accepts no connection is a connect timeout
    waiting for a service can be cancelled
    the service sees at once that its caller has left

Batches (with a `batch_service`)
    each outcome of a batch is that of its item
    an item that failed says nothing private
    a batch is found by its token or the search refused
    a creation that is not answered is not sent again
    a batch that cannot be right is refused before anything is sent
    results that break off are interrupted
    a batch that nobody knows is not found
"""

from asyncllm.testing.conformance.aborts import AbortChecks
from asyncllm.testing.conformance.answers import AnswerChecks
from asyncllm.testing.conformance.batches import BatchChecks, BatchService
from asyncllm.testing.conformance.calls import CallChecks
from asyncllm.testing.conformance.connecting import ConnectChecks
from asyncllm.testing.conformance.crowds import CrowdChecks
from asyncllm.testing.conformance.deadlines import DeadlineChecks
from asyncllm.testing.conformance.dialects import Dialect, OpenAIDialect
from asyncllm.testing.conformance.failures import FailureChecks
from asyncllm.testing.conformance.framing import FramingChecks
from asyncllm.testing.conformance.leaks import LeakChecks
from asyncllm.testing.conformance.leaving import LeavingChecks
from asyncllm.testing.conformance.mapping import MappingChecks
from asyncllm.testing.conformance.meaning import MeaningChecks
from asyncllm.testing.conformance.options import OptionChecks
from asyncllm.testing.conformance.replies import ReplyChecks
from asyncllm.testing.conformance.stalls import StallChecks
from asyncllm.testing.conformance.tools import ToolChecks

__all__ = ["BackendConformance", "BatchService", "Dialect", "OpenAIDialect"]

_SPOKEN = (FramingChecks, ToolChecks, ReplyChecks, StallChecks)
_HTTP = (MappingChecks,)
_BATCHES = (BatchChecks,)


class BackendConformance(
    ConnectChecks,
    AnswerChecks,
    MeaningChecks,
    OptionChecks,
    CallChecks,
    LeavingChecks,
    AbortChecks,
    DeadlineChecks,
    CrowdChecks,
    LeakChecks,
    FailureChecks,
    MappingChecks,
    FramingChecks,
    ToolChecks,
    ReplyChecks,
    StallChecks,
    BatchChecks,
):
    """Subclass it, name the backend, and run pytest; `Subject` says what can be set."""

    def __init_subclass__(cls) -> None:
        """Take out the checks that do not apply to the subject: pytest collects nothing that is `None`."""
        super().__init_subclass__()
        conditions = (
            (_SPOKEN, cls.dialect is not None),
            (_HTTP, cls.speaks_http),
            (_BATCHES, cls.batch_service is not None),
        )
        for checks, applies in conditions:
            for name, body in (item for group in checks for item in vars(group).items()):
                if name.startswith("test_") and getattr(cls, name) in (None, body):
                    setattr(cls, name, body if applies else None)
