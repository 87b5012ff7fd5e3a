"""The keeper of one snippet: a script of its own, `python -I -S jail.py PLAN LEASH STATUS`, without an environment.

Of these file descriptors it reads PLAN, starts the snippet behind every layer, and ends it when its time is up, when a
byte comes by LEASH, or when whoever holds the other end is gone. What became of it goes to STATUS, in one line. A layer
that fails ends everything before anything has run. Standard library only, and little of it: what is trusted can be read
in one go, and starts fast.

Sources: man 7 user_namespaces, pid_namespaces and landlock; man 2 pivot_root, seccomp and prctl; linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import sys

TYPE_CHECKING = False  # `typing` alone would take as long to load as all of the above
if TYPE_CHECKING:
    from typing import Any

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 22, 24, 36, 38
_CAP_SYS_ADMIN = 21
_SIGKILL = 9

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ, _EXECUTE = 0b1100, 0b1
_CHANGE = 0b10 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 14  # all but devices and sockets
_FS_SINCE = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""Rights over files, by the version of Landlock that first knew of them."""

_NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`, of which the kernel reads the first twelve bytes."""

    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _must(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, value: Any, then: Any = 0) -> None:
    _must(_libc.prctl(option, value, then, 0, 0))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    _must(_libc.mount(*texts, ctypes.c_ulong(flags), None if data is None else data.encode()))


# -- users -------------------------------------------------------------------------------------------------------


def is_privileged() -> bool:
    """Whether this process may mount and be anybody, and so needs no user namespace for it."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if file.read().split() != ["0", "0", str(0xFFFFFFFF)]:
            return False  # root of a user namespace alone, as in a container without root
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _new_user_namespace(proc: int) -> None:
    """A user namespace in which the user of this process is nobody, and there is no other."""
    user, group = os.geteuid(), os.getegid()
    _must(_libc.unshare(_NEWUSER))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        file = os.open(name, os.O_WRONLY, dir_fd=proc)
        os.write(file, text.encode())
        os.close(file)


def _own_proc() -> int:
    return os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _drop_rights() -> None:
    for capability in range(64):
        if _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one that this kernel has
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _must(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _prctl(_NO_NEW_PRIVS, 1)


# -- files -------------------------------------------------------------------------------------------------------


def _build_root(plan: dict[str, Any]) -> None:
    """Make a new root of the plan's files, read-only, and leave the old one behind for good."""
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("root", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=4096,mode=755")
    os.chdir("/tmp")
    os.mkdir("old")
    _must(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old"))
    os.chdir("/")
    for path, target in plan["links"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    for path, inside in plan["binds"]:
        _bind(path, inside, _RDONLY | _NOSUID | _NODEV)
    for path in plan["devices"]:
        _bind(path, path, _NOSUID | _NOEXEC)
    for path in plan["masks"]:
        _mount("mask", path, "tmpfs", _RDONLY | _NOSUID | _NODEV | _NOEXEC, "size=4k,nr_inodes=2,mode=755")
    os.makedirs("/tmp", exist_ok=True)
    room = f"size={plan['disk_bytes']},nr_inodes=1024,mode=1777"
    _mount("tmp", "/tmp", "tmpfs", _NOSUID | _NODEV | _NOEXEC, room)
    _must(_libc.umount2(b"/old", _DETACH))
    os.rmdir("/old")
    _mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir("/tmp")


def _bind(path: str, inside: str, flags: int) -> None:
    source = f"/old{path}"
    if os.path.isdir(source):
        os.makedirs(inside, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(source, inside, None, _BIND | _REC)
    # In a user namespace, none of the flags that a mount came with may be taken off.
    kept = os.statvfs(inside).f_flag & (_RDONLY | _NOSUID | _NODEV | _NOEXEC)
    _mount("none", inside, None, _REMOUNT | _BIND | flags | kept)


def _landlock() -> None:
    """A second wall around files, TCP and signals, as far as this kernel knows how."""
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    every = sum(rights for since, rights in _FS_SINCE.items() if since <= version)
    rules = _Ruleset(every, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = _must(_libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0))
    for path, rights in (("/", _READ | _EXECUTE), ("/tmp", _READ | _CHANGE)):
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY)
        beneath = _Beneath(rights & every, folder)
        _must(_libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(beneath), 0))
        os.close(folder)
    _must(_libc.syscall(_RESTRICT_SELF, ruleset, 0))


# -- the snippet's process ---------------------------------------------------------------------------------------


class _Entry:
    """The way in. `layer` names the one that is being put up, for the report of a failure."""

    layer = "start"

    def __init__(self, plan: dict[str, Any], status: int, keeper: int) -> None:
        self._plan, self._status, self._keeper = plan, status, keeper

    def go(self) -> None:
        """Become the snippet, or report why that cannot be."""
        try:
            if self._plan["bwrap"]:
                self._by_bwrap()
            else:
                self._by_namespaces()
        except BaseException as error:
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            os.write(self._status, f"refused {self.layer}: {reason}\n".encode())
        finally:
            os._exit(1)

    def _by_namespaces(self) -> None:
        plan = self._plan
        self.layer = "session"
        os.setsid()
        proc = _own_proc()
        self.layer = "mount, network, IPC, host name and cgroup namespaces"
        _must(_libc.unshare(_NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP))
        _must(_libc.sethostname(b"sandbox", 7))
        self.layer = "file system"
        _build_root(plan)
        if plan["privileged"]:
            self.layer = "user namespace"
            _become_nobody()
            _prctl(_DUMPABLE, 1)  # its files in /proc, the map among them, would belong to root
            _new_user_namespace(proc)
        self._limit()
        self.layer = "capabilities and no_new_privs"
        _drop_rights()
        self.layer = "Landlock"
        _landlock()
        self._die_with_keeper()
        status = os.dup2(self._status, 3, inheritable=False)
        self._status = status
        os.closerange(4, 65536)
        self.layer = "seccomp"
        code = plan["seccomp"]
        _prctl(_SECCOMP, 2, ctypes.byref(_Filter(len(code) // 8, code)))
        self.layer = "Python"
        os.execve(plan["argv"][0], plan["argv"], {})

    def _by_bwrap(self) -> None:
        plan = self._plan
        if os.geteuid() == 0:
            self.layer = "user"
            _become_nobody()
        self._limit()
        self._die_with_keeper()
        self.layer = "bubblewrap"
        given, giving = os.pipe()
        os.write(giving, plan["seccomp"])
        os.close(giving)
        os.dup2(given, plan["seccomp_at"])
        os.execve(plan["argv"][0], plan["argv"], {})

    def _limit(self) -> None:
        self.layer = "rlimits"
        for kind, bound in self._plan["rlimits"]:
            resource.setrlimit(kind, (bound, bound))

    def _die_with_keeper(self) -> None:
        self.layer = "death with the keeper"
        _prctl(_PDEATHSIG, _SIGKILL)
        if select.select([self._keeper], [], [], 0)[0]:
            os._exit(1)  # it has ended before it could be said


# -- the keeper --------------------------------------------------------------------------------------------------


def _prepare(plan: dict[str, Any]) -> str:
    """What the keeper itself is put behind, so that its child begins there. The layer that fails, if one does."""
    layer = "cgroup"
    try:
        for path in plan["cgroups"]:
            with open(path, "w", encoding="ascii") as file:
                file.write("0")
        if not plan["bwrap"]:
            plan["privileged"] = is_privileged()
            if not plan["privileged"]:
                layer = "user namespace"
                _new_user_namespace(_own_proc())
            layer = "process namespace"
            _must(_libc.unshare(_NEWPID))
        # Last, because a change of user takes it back.
        layer = "death with the parent"
        _prctl(_PDEATHSIG, _SIGKILL)
        _prctl(_SUBREAPER, 1)
    except OSError as error:
        return f"refused {layer}: {error.strerror}"
    return ""


def _keep(child: int, leash: int, plan: dict[str, Any]) -> str:
    """Wait for `child`, but not for longer than it may take, and say how it ended."""
    poll = select.poll()
    done = os.pidfd_open(child)
    poll.register(done, select.POLLIN)
    poll.register(leash, select.POLLIN)
    ready = {number for number, _ in poll.poll(plan["wall_s"] * 1000)}
    ended = "" if done in ready else "stopped" if ready else "timeout"
    if ended:
        os.kill(child, _SIGKILL)
    # The first process of a process namespace is gone only when all of the others are; those of bubblewrap, which
    # makes one further down, come to the keeper when it is.
    _, code = os.waitpid(child, 0)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    if ended:
        return ended
    if os.WIFSIGNALED(code):
        return f"signal {os.WTERMSIG(code)}"
    status = os.WEXITSTATUS(code)
    # As a shell does, bubblewrap passes a signal on as 128 and its number.
    return f"signal {status - 128}" if plan["bwrap"] and status > 128 else f"exit {status}"


def main(given: int, leash: int, status: int) -> None:
    """Run the plan that `given` holds, and tell `status` how it ended."""
    os.set_inheritable(leash, False)
    os.set_inheritable(status, False)
    with open(given, "rb") as file:
        plan = marshal.load(file)
    refused = _prepare(plan)
    if not refused and os.getppid() != plan["parent"]:
        os._exit(1)  # the parent has ended before its death could be waited for
    if refused:
        os.write(status, f"{refused}\n".encode())
        os._exit(1)
    keeper, kept = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(kept)
        os.close(leash)
        _Entry(plan, status, keeper).go()
    os.closerange(0, 3)  # what it reads and writes is the snippet's alone
    os.write(status, f"{_keep(child, leash, plan)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
