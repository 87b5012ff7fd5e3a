"""The filter of system calls, as the bytes of a classic BPF program for `seccomp(2)` and `bwrap --seccomp`.

A list of what is allowed. Sources: linux/filter.h, linux/bpf_common.h, linux/seccomp.h, linux/audit.h, linux/sched.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from typing import NamedTuple

from asyncllm.sandbox.syscalls import ALLOWED

__all__ = ["MACHINES", "program"]


class _Machine(NamedTuple):
    audit: int
    """Its AUDIT_ARCH, so that calls of another interface of the same machine are known by it."""
    column: int
    """Where its numbers stand in `ALLOWED`."""
    ioctl: int
    prctl: int
    socketpair: int
    clone: int


MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, column=0, ioctl=16, prctl=157, socketpair=53, clone=56),
    "aarch64": _Machine(audit=0xC00000B7, column=1, ioctl=29, prctl=167, socketpair=199, clone=220),
}
_CLONE3 = 435
_X32 = 0x40000000
"""From here up are the calls of x86-64's 32-bit interface, which the audit architecture does not tell apart."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where `struct seccomp_data` holds these, an argument's lower half first as both machines are little-endian."""
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ, which ask for a terminal; FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not TIOCSTI."""
_PRCTLS = (15, 16, 0x53564D41)
"""PR_SET_NAME and PR_GET_NAME of a thread, PR_SET_VMA, which names memory."""
_AF_UNIX = 1
_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020000


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """One `struct sock_filter`; `if_so` and `if_not` are how many steps to skip."""
    return struct.pack("<HBBI", code, if_so, if_not, value)


def _one_of(number: int, argument: int, values: Iterable[int]) -> bytes:
    """The call `number`, allowed where `argument` is one of `values`."""
    tests = b"".join(_step(_EQUAL, value, 0, 1) + _step(_RETURN, _ALLOW) for value in values)
    body = _step(_LOAD, argument) + tests + _step(_RETURN, _REFUSE)
    return _step(_EQUAL, number, 0, len(body) // 8) + body


def program(machine: str) -> bytes:
    """The filter for `machine`, one of `MACHINES`."""
    of = MACHINES[machine]
    numbers = [number for row in ALLOWED.values() if (number := row[of.column]) is not None]
    threads = (
        _step(_LOAD, _FIRST)
        + _step(_ANY_BIT, _CLONE_NAMESPACES, 1, 0)
        + _step(_ANY_BIT, _CLONE_THREAD, 1, 0)
        + _step(_RETURN, _REFUSE)
        + _step(_RETURN, _ALLOW)
    )
    return b"".join(
        (
            _step(_LOAD, _ARCHITECTURE),
            _step(_EQUAL, of.audit, 1, 0),
            _step(_RETURN, _KILL),
            _step(_LOAD, _NUMBER),
            _step(_AT_LEAST, _X32, 0, 1),
            _step(_RETURN, _KILL),
            # Its flags lie in memory that a filter cannot read; without it, libraries take clone.
            _step(_EQUAL, _CLONE3, 0, 1),
            _step(_RETURN, _UNKNOWN),
            *(_step(_EQUAL, number, 0, 1) + _step(_RETURN, _ALLOW) for number in numbers),
            _step(_EQUAL, of.clone, 0, len(threads) // 8) + threads,
            _one_of(of.socketpair, _FIRST, (_AF_UNIX,)),
            _one_of(of.ioctl, _SECOND, _IOCTLS),
            _one_of(of.prctl, _FIRST, _PRCTLS),
            _step(_RETURN, _REFUSE),
        )
    )
