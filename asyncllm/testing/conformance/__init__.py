"""The checks that every backend passes, first-party or not.

    class TestMine(BackendConformance):
        name = "mine"                   # as registered, or override `connect`
        model = "some-model"
        base_url = "http://..."         # or override `make_backend` to start a server first

Each check is a method of its own: it makes a fresh event loop and a fresh backend in it, runs, and fails on whatever
is left behind as well: tasks, warnings, exceptions that nobody saw. pytest finds the methods of a subclass whose name
begins with `Test`; no pytest plugin is needed, and none of the checks skips: what a backend does not have, it is
asserted to refuse by name.
"""

from asyncllm.testing.conformance.answers import AnswerChecks
from asyncllm.testing.conformance.calls import CallChecks
from asyncllm.testing.conformance.connecting import ConnectChecks
from asyncllm.testing.conformance.failures import FailureChecks
from asyncllm.testing.conformance.leaving import LeavingChecks
from asyncllm.testing.conformance.options import OptionChecks

__all__ = ["BackendConformance"]


class BackendConformance(ConnectChecks, AnswerChecks, OptionChecks, LeavingChecks, FailureChecks, CallChecks):
    """Subclass it, name the backend, and run pytest; `Subject` says what can be set."""
