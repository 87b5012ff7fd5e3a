"""Ways out of a sandbox, as snippets that try them. One that finds a way prints ESCAPED, one that does not prints held.

What a snippet needs to know stands in `facts`: paths, ports and names of things outside that are there to be reached.
`PLAIN` are those that do no harm, and must succeed without a sandbox: else their failing within one would show nothing.
Those that could do harm are bounded by themselves too.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ESCAPES", "PLAIN", "Escape", "outside", "snippet"]

_PRELUDE = """
import ctypes, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def attempt(act):
    try:
        found = act()
    except (OSError, MemoryError, RuntimeError, ValueError, KeyError, ImportError) as error:
        print('held', type(error).__name__)
    else:
        print('ESCAPED', repr(found)[:100])
def must(condition):
    if not condition:
        raise RuntimeError('held')
"""


class Escape(NamedTuple):
    code: str
    ends: str = "ok"
    """The status of one that is held."""


def _try(code: str) -> Escape:
    return Escape(f"attempt(lambda: {code})")


ESCAPES: dict[str, Escape] = {
    # The list of the reliability notes, S24.
    "reads etc shadow": _try("open('/etc/shadow').read()"),
    "reads a private key": _try("open(facts['ssh']).read()"),
    "reads the environment of the first process": _try("open('/proc/1/environ').read()"),
    "reads a database": _try("open(facts['store'], 'rb').read()"),
    "connects to a server on this machine": _try("socket.create_connection(('127.0.0.1', facts['port']), 2)"),
    "connects to a socket of the file system": _try("socket.socket(socket.AF_UNIX).connect(facts['path'])"),
    "connects to the metadata service": _try("socket.create_connection(('169.254.169.254', 80), 2)"),
    "asks for a name": _try("socket.getaddrinfo('example.com', 80)"),
    "starts processes without end": Escape("""
made = []
try:
    for _ in range(64):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
        made.append(child)
except OSError:
    pass
print('ESCAPED' if len(made) > 32 else 'held', len(made))
"""),
    "takes 10 GiB of memory": _try("bytearray(10 << 30)"),
    "fills the disk": Escape("""
written = 0
try:
    for number in range(64):
        with open(f'/tmp/{number}', 'wb') as file:
            written += file.write(bytes(1 << 20))
except OSError:
    pass
print('ESCAPED' if written > 17 << 20 else 'held', written)
"""),
    "kills every process it can": _try("os.kill(-1, signal.SIGKILL)"),
    "types into the terminal": _try("[__import__('fcntl').ioctl(fd, 0x5412, b'x') for fd in (0, 1, 2)]"),
    "becomes root": Escape("attempt(lambda: os.setuid(0)); attempt(lambda: os.setresuid(0, 0, 0))"),
    "mounts": _try("must(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0)"),
    "traces its parent": _try("must(libc.ptrace(16, os.getppid() or 1, None, None) == 0)"),
    "follows a link out": Escape("""
os.path.exists('/tmp/way') or os.symlink(facts['store'], '/tmp/way') if facts['inside'] else None
attempt(lambda: open('/tmp/way' if facts['inside'] else facts['link']).read())
"""),
    "prints 100 MB": Escape("for _ in range(1600): sys.stdout.write('held ' * 13107)"),
    "loops and ignores being asked to end": Escape("""
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
print('held', flush=True)
while True: pass
""", ends="timeout"),
    "leaves a daemon behind": Escape("""
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(2)
        os._exit(0)
    os.wait()
attempt(daemon)
"""),
    "uses a file descriptor that was left open": _try("must([fd for fd in range(3, 256) if not fails(fd)])"),
    "lists its file descriptors": _try("must(set(os.listdir('/proc/self/fd')) - {'0', '1', '2'})"),
    "makes a user namespace": _try("must(libc.unshare(0x10000000) == 0)"),
    "dumps core": _try("__import__('resource').setrlimit(4, (1 << 20, 1 << 20))"),
    "reads the environment": _try("os.environ['CANARY']"),
    # And what else comes to mind.
    "connects to an abstract socket": _try("socket.socket(socket.AF_UNIX).connect(facts['abstract'])"),
    "sends a datagram": _try("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"),
    "opens a raw socket": _try("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    "talks to the kernel by netlink": _try("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    "runs a shell": _try("__import__('subprocess').run(['/bin/sh', '-c', 'true'], check=True)"),
    "becomes a shell": _try("os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])"),
    "runs a Python of its own": _try("__import__('subprocess').run([sys.executable, '-c', ''], check=True)"),
    "starts threads without end": Escape("""
threading.stack_size(65536)
started, stop = [], threading.Event()
try:
    for _ in range(256):
        thread = threading.Thread(target=stop.wait)
        thread.start()
        started.append(thread)
except RuntimeError:
    pass
stop.set()
print('ESCAPED' if len(started) > 64 else 'held', len(started))
"""),
    "keeps memory that is no process's": _try("os.memfd_create('x')"),
    "keeps System V memory": _try("must(libc.shmget(0, 4096, 0o1600) >= 0)"),
    "signals the parent's process": Escape("""
attempt(lambda: must(facts['pid'] != os.getpid() and os.kill(facts['pid'], 0) is None))
"""),
    "reads another's memory": _try("call({'x86_64': 310, 'aarch64': 270}[os.uname().machine], 1, 0, 0, 0, 0, 0)"),
    "changes its root": _try("os.chroot('/tmp')"),
    "joins a namespace": _try("must(libc.setns(0, 0) == 0)"),
    "loads a program into the kernel": _try("call({'x86_64': 321, 'aarch64': 280}[os.uname().machine], 5, 0, 0)"),
    "opens a ring of the kernel's": _try("call(425, 8, ctypes.create_string_buffer(120))"),
    "handles page faults itself": _try("call({'x86_64': 323, 'aarch64': 282}[os.uname().machine], 1)"),
    "counts events of the processor": _try("call({'x86_64': 298, 'aarch64': 241}[os.uname().machine], 0, 0, -1, -1)"),
    "asks for keys": _try("call({'x86_64': 250, 'aarch64': 219}[os.uname().machine], 0, -3, 0)"),
    "opens a file by its handle": _try("call({'x86_64': 304, 'aarch64': 265}[os.uname().machine], -100, 0, 0)"),
    "clones into a namespace": _try("call({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x10000011, 0, 0, 0, 0)"),
    "clones by the newer call": _try("call(435, ctypes.create_string_buffer(88), 88)"),
    "makes a device": _try("os.mknod('/tmp/device', 0o60600, os.makedev(254, 0))"),
    "changes the standard library": _try("open(os.__file__, 'a').write('\\n')"),
    "writes to its root": _try("open('/new', 'w')"),
    "runs what it has written": Escape("""
import shutil
def run():
    shutil.copy(sys.executable, '/tmp/program')
    os.chmod('/tmp/program', 0o755)
    os.execv('/tmp/program', ['program', '-c', "print('ESCAPED')"])
attempt(run)
"""),
    "gives itself more memory": _try("__import__('resource').setrlimit(9, (1 << 40, 1 << 40))"),
    "changes what it was started with": _try("os.write(0, b'x')"),
    "talks to its parent through what it reads from": _try("socket.socket(fileno=0).getpeername()"),
    "uses packages of the machine": _try("must(os.listdir(__import__('sysconfig').get_path('purelib')))"),
}  # fmt: skip

PLAIN = (
    "reads a private key",
    "reads a database",
    "connects to a server on this machine",
    "connects to a socket of the file system",
    "connects to an abstract socket",
    "follows a link out",
    "leaves a daemon behind",
    "uses a file descriptor that was left open",
    "reads the environment",
    "lists its file descriptors",
    "runs a shell",
    "runs a Python of its own",
    "keeps memory that is no process's",
    "signals the parent's process",
    "sends a datagram",
    "talks to the kernel by netlink",
    "starts threads without end",
)


def snippet(name: str, facts: dict[str, object]) -> str:
    """The code of the escape `name`."""
    fails = (
        "def fails(fd):\n    try:\n        os.fstat(fd)\n    except OSError:\n        return True\n    return False\n"
    )
    return f"{_PRELUDE}\nfacts = {facts!r}\n{fails}\n{ESCAPES[name].code}"


@contextlib.contextmanager
def outside(folder: Path) -> Generator[dict[str, object]]:
    """Things to be reached, readable by everybody, and the facts about them. Nobody may have connected at the end."""
    key, store, link = folder / ".ssh" / "id", folder / "store.db", folder / "link"
    for file in (key, store):
        file.parent.mkdir(exist_ok=True)
        file.write_text("canary")
    link.symlink_to(store)
    path, abstract = str(folder / "socket"), f"\0asyncllm-{os.getpid()}-{folder.name}"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (path, abstract):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        Path(path).chmod(0o777)
        yield {
            "ssh": str(key),
            "store": str(store),
            "link": str(link),
            "path": path,
            "abstract": abstract,
            "port": tcp.getsockname()[1],
            "pid": os.getpid(),
            "inside": True,
            "server": tcp.fileno(),
        }
