"""What has to hold before any code is run: the sandbox is asked to let the worst through, and must not."""

from __future__ import annotations

from asyncllm.errors import ConfigError, SandboxError
from asyncllm.sandbox.protocol import Sandbox, SandboxLimits

__all__ = ["require_sound"]

_SLOW_S = 20
_ENDLESS_S = 0.25

# Each probe returns where the wall stands and raises, or returns False, where there is a hole.
_PROBES = """
import ctypes, os, resource, socket, threading

def refused(act):
    try:
        act()
    except (OSError, MemoryError):
        return True
    return False

def unseen(path):
    return refused(lambda: os.stat(path))

libc = ctypes.CDLL(None)
probes = {
    'network': lambda: all(refused(lambda f=f: socket.socket(f)) for f in (socket.AF_INET, socket.AF_UNIX)),
    'files outside': lambda: all(map(unseen, OUTSIDE)) and refused(lambda: open('/new', 'w')),
    'environment': lambda: set(os.environ) <= {'PWD'},  # bubblewrap's own
    'process namespace': lambda: os.getpid() <= 2,
    'other processes': lambda: refused(os.fork),
    'user': lambda: os.getuid() == os.getgid() == 65534 and refused(lambda: os.setuid(0)),
    'memory': lambda: refused(lambda: bytearray(MEMORY)),
    'disk': lambda: os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize <= DISK + 4096,
    'rlimits': lambda: resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
    'file descriptors': lambda: all(refused(lambda n=n: os.fstat(n)) for n in range(3, 64)),
    'seccomp': lambda: libc.unshare(0x10000000) == -1 and libc.mount(None, b'/', None, 32, None) == -1,
    'threads': lambda: threading.Thread(target=int).start() is None,
}
holes = []
for name, probe in probes.items():
    try:
        if not probe():
            holes.append(name)
    except Exception:
        holes.append(name)
print('holes:', ', '.join(holes))
"""


async def require_sound(sandbox: Sandbox, kind: str, limits: SandboxLimits) -> None:
    """Run what tries to get out of `sandbox`.

    Raises `ConfigError` naming the layers that are missing, with `code` `sandbox_unavailable`.
    """
    # Folders on the way to a Python are there within, empty but for it, and so no hole.
    outside = [__file__, "/etc/passwd", "/proc/self/status", "/proc/1/environ", "/sys/kernel", "/bin/sh"]
    facts = f"OUTSIDE = {outside!r}\nMEMORY = {limits.memory_bytes}\nDISK = {limits.disk_bytes}\n"
    try:
        probed = await sandbox.run(facts + _PROBES, timeout_s=_SLOW_S)
        endless = await sandbox.run("while True: pass", timeout_s=_ENDLESS_S)
    except SandboxError as error:
        raise _unavailable(kind, error.message) from None
    if probed.status != "ok" or not probed.stdout.startswith("holes:"):
        said = probed.stderr.strip().rpartition("\n")[2]
        raise _unavailable(kind, f"its self-test ended with {probed.status!r}: {said or 'no output'}")
    if holes := probed.stdout.removeprefix("holes:").strip():
        raise _unavailable(kind, f"nothing holds back what has to be: {holes}")
    if endless.status != "timeout":
        raise _unavailable(kind, f"nothing holds back what has to be: time, for an endless loop was {endless.status!r}")


def _unavailable(kind: str, reason: str) -> ConfigError:
    return ConfigError(
        f"this machine cannot make the {kind!r} sandbox: {reason}; code is never run without one",
        code="sandbox_unavailable",
        field="kind",
    )
