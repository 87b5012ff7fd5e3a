"""How a snippet is run within the sandbox: the program that reads it, and the arguments that Python is started with."""

from __future__ import annotations

__all__ = ["PACKAGES", "arguments"]

PACKAGES = "/packages"
"""Where further packages stand inside."""

# The snippet comes by standard input, so that it is no argument of a process, and takes over `__main__`. The frames of
# this program are left out of a traceback, which then looks as that of `python -c` does.
_READER = f"""
def main():
    import sys
    def hook(kind, value, trace):
        for _ in range(2):
            trace = trace and trace.tb_next
        sys.__excepthook__(kind, value.with_traceback(trace), trace)
    sys.excepthook = hook
    sys.path.append({PACKAGES!r})
    names = sys.modules['__main__'].__dict__
    del names['main']
    exec(compile(sys.stdin.buffer.read(), '<string>', 'exec'), names)
main()
"""


def arguments(program: str) -> list[str]:
    """Python without its environment, its user's folder and its site; UTF-8 whatever the locale; no bytecode kept."""
    return [program, "-I", "-S", "-B", "-X", "utf8", "-c", _READER]
