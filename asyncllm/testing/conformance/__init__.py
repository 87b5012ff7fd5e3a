"""The checks that every backend passes, first-party or not.

    class TestMine(BackendConformance):
        name = "mine"                   # as registered, or override `connect`
        model = "some-model"
        base_url = "http://..."         # or override `make_backend` to start a server first
        dialect = OpenAIDialect()       # of a backend over HTTP: what its service sends

Each check is a method of its own: it makes a fresh event loop and a fresh backend in it, runs, and fails on whatever
is left behind as well: tasks, warnings, exceptions that nobody saw. pytest finds the methods of a subclass whose name
begins with `Test`; no pytest plugin is needed, and none of the checks skips: what a backend does not have, it is
asserted to refuse by name, and the checks that need a `dialect` are not there for a subject without one.
"""

from asyncllm.testing.conformance.aborts import AbortChecks
from asyncllm.testing.conformance.answers import AnswerChecks
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

__all__ = ["BackendConformance", "Dialect", "OpenAIDialect"]

_SPOKEN = (FramingChecks, ToolChecks, ReplyChecks, StallChecks)
_HTTP = (MappingChecks,)


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
):
    """Subclass it, name the backend, and run pytest; `Subject` says what can be set."""

    def __init_subclass__(cls) -> None:
        """Take out the checks that do not apply to the subject: pytest collects nothing that is `None`."""
        super().__init_subclass__()
        for checks, applies in ((_SPOKEN, cls.dialect is not None), (_HTTP, cls.speaks_http)):
            for name, body in (item for group in checks for item in vars(group).items()):
                if name.startswith("test_") and getattr(cls, name) in (None, body):
                    setattr(cls, name, body if applies else None)
