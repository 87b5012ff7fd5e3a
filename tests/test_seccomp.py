"""The filter of system calls, run step by step as the kernel would, for both kinds of machines."""

from __future__ import annotations

import errno
import struct

import pytest

from asyncllm.sandbox.seccomp import MACHINES, program
from asyncllm.sandbox.syscalls import ALLOWED

ALLOW, KILL, REFUSE, UNKNOWN = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    "x86_64": {"ioctl": 16, "clone": 56, "prctl": 157, "socketpair": 53, "socket": 41, "fork": 57, "vfork": 58},
    "aarch64": {"ioctl": 29, "clone": 220, "prctl": 167, "socketpair": 199, "socket": 198},
}


def judge(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter for `machine` says to a call."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<IIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *padded)
    steps: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program(machine)))
    at = held = 0
    while True:
        code, if_so, if_not, value = steps[at]
        at += 1
        match code:
            case 0x20:
                held = struct.unpack_from("<I", data, value)[0]
            case 0x06:
                return value
            case 0x15 | 0x35 | 0x45:
                true = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
                at += if_so if true else if_not
            case _:
                raise AssertionError(f"no such step: {code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_passes_if_it_is_in_the_list(machine: str) -> None:
    column = MACHINES[machine].column
    listed = {row[column] for row in ALLOWED.values()} - {None}

    passed = {number for number in range(600) if judge(machine, number) == ALLOW}

    assert passed == listed


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_calls_by_another_interface(machine: str) -> None:
    assert judge(machine, 1, audit=0x40000003) == KILL
    assert judge(machine, 0x40000000 + 1) == KILL
    assert judge(machine, 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_made_and_processes_are_not(machine: str) -> None:
    clone = CALLS[machine]["clone"]

    assert judge(machine, clone, 0x3D0F00) == ALLOW  # what a thread library asks for
    assert judge(machine, clone, 0x1200011) == REFUSE  # what fork asks for
    assert judge(machine, clone, 0x4111) == REFUSE  # and vfork
    assert judge(machine, 435) == UNKNOWN  # clone3


@pytest.mark.parametrize("namespace", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
@pytest.mark.parametrize("machine", MACHINES)
def test_no_thread_is_made_in_a_namespace_of_its_own(machine: str, namespace: int) -> None:
    assert judge(machine, CALLS[machine]["clone"], 0x3D0F00 | namespace) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_come_in_pairs_to_oneself(machine: str) -> None:
    assert judge(machine, CALLS[machine]["socketpair"], 1) == ALLOW
    assert judge(machine, CALLS[machine]["socketpair"], 2) == REFUSE
    assert judge(machine, CALLS[machine]["socket"], 1) == REFUSE


@pytest.mark.parametrize(("request_", "answer"), [(0x5401, ALLOW), (0x5421, ALLOW), (0x5412, REFUSE), (0, REFUSE)])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_device_is_asked_what_it_is_and_given_nothing(machine: str, request_: int, answer: int) -> None:
    assert judge(machine, CALLS[machine]["ioctl"], 0, request_) == answer


@pytest.mark.parametrize(("option", "answer"), [(15, ALLOW), (22, REFUSE), (38, REFUSE), (1, REFUSE), (4, REFUSE)])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_gives_itself_a_name_and_no_rights(machine: str, option: int, answer: int) -> None:
    assert judge(machine, CALLS[machine]["prctl"], option) == answer
