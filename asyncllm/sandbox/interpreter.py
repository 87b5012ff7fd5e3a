"""The files that a Python needs to run by itself: its program, its standard library, and the libraries of both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from asyncllm.errors import ConfigError

__all__ = ["Interpreter", "find_interpreter"]

_LOOK_S = 60

_LATE = ("libgcc_s.so.1", "libstdc++.so.6", "libdl.so.2", "librt.so.1", "libutil.so.1", "libpthread.so.0")
"""What PEP 600 lets a wheel take from the system."""

# Loads every extension module of the standard library, so that each shared library stands in the process's own map.
_LOOK = """
import importlib, json, os, sys, sysconfig
folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
for folder in folders:
    dynamic = os.path.join(folder, "lib-dynload")
    for name in os.listdir(dynamic) if os.path.isdir(dynamic) else ():
        module = name.partition(".")[0]
        if not any(word in module for word in ("tkinter", "test", "xxlimited", "readline")):
            try:
                importlib.import_module(module)
            except Exception:
                pass
mapped = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if len(line.split(None, 5)) == 6}
libraries = sorted(path for path in mapped if ".so" in path and os.path.isfile(path))
print(json.dumps([sys.executable, sorted(folders), libraries]))
"""


class Interpreter(Struct, frozen=True, kw_only=True):
    """A Python, and what of the file system it takes."""

    program: str
    paths: tuple[str, ...]
    """Files and folders, none beneath another and none a link."""
    links: tuple[tuple[str, str], ...]
    """Links on the way to them, with what each points to."""
    hidden: tuple[str, ...]
    """Folders within them that are none of the code's business."""


def find_interpreter(program: str | None) -> Interpreter:
    """What `program` needs, by default the Python that runs this. It is asked itself, which takes a moment.

    Raises `ConfigError` where it cannot be asked.
    """
    given = os.path.realpath(program or sys.executable)
    try:
        # The answer is a Python's own, about itself, and no code of anyone else's has run in it.
        asked = subprocess.run(  # noqa: S603
            [given, "-I", "-S", "-c", _LOOK], env={}, capture_output=True, timeout=_LOOK_S, check=True
        )
        found, folders, libraries = msgspec.json.decode(asked.stdout, type=tuple[str, list[str], list[str]])
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"no Python that a sandbox could run: {given} does not tell where its files are ({type(error).__name__})",
            field="python",
        ) from None
    needed = [given, found, *folders, *libraries, *_late(libraries)]
    needed += [path for path in (_loader(given), "/etc/ld.so.cache") if path and Path(path).exists()]
    links: dict[str, str] = {}
    paths = {_resolve(path, links) for path in needed}
    for library in libraries:
        _keep_names(Path(library), links)
    hidden = {Path(folder).resolve() / "site-packages" for folder in folders}
    return Interpreter(
        program=given,
        paths=tuple(sorted(path for path in paths if not _is_beneath(path, paths))),
        links=tuple(sorted((path, target) for path, target in links.items() if not _is_beneath(path, paths))),
        hidden=tuple(sorted(str(folder) for folder in hidden if folder.is_dir())),
    )


def _is_beneath(path: str, paths: Collection[str]) -> bool:
    return any(str(folder) in paths for folder in Path(path).parents)


def _resolve(path: str, links: dict[str, str]) -> str:
    """The real path of `path`, each link on the way kept in `links`."""
    here: Path = Path("/")
    names: list[str] = list(Path(path).parts[1:])
    while names:
        name = names.pop(0)
        if name == "..":
            here = here.parent
            continue
        step = here / name
        if not step.is_symlink():
            here = step
            continue
        target = step.readlink()
        links[str(step)] = str(target)
        names = [part for part in target.parts if part != "/"] + names
        here = Path("/") if target.is_absolute() else here
    return str(here)


def _late(libraries: Sequence[str]) -> list[str]:
    """Those beside the C library that are loaded late, or by packages that are built for every distribution."""
    folders = {path.parent for library in libraries if (path := Path(library)).name.startswith(("libc.so", "libc-"))}
    return sorted(str(folder / name) for folder in folders for name in _LATE if (folder / name).is_file())


def _keep_names(library: Path, links: dict[str, str]) -> None:
    """Keep the links to `library` beside it: by one of them, and not by its file's name, it is asked for."""
    for path in library.parent.glob(f"{library.name.partition('.so')[0]}*"):
        if path.is_symlink() and path.resolve() == library:
            links[str(path)] = str(path.readlink())


def _loader(program: str) -> str | None:
    """The path of the dynamic loader as it stands in an ELF file, by which the kernel looks for it."""
    with Path(program).open("rb") as file:
        found = re.search(rb"/lib[\w./-]*/ld[\w.-]*\.so[.\d]*", file.read(65536))
    return found[0].decode() if found else None
