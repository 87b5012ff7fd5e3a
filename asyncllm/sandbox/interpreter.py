"""The files that a Python needs to run by itself: its program, its standard library, and the libraries of both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
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
    libraries += _siblings(libraries)
    links: dict[str, str] = {}
    paths = {_resolve(path, links) for path in (given, found, *folders, *libraries)}
    for library in libraries:
        _link_names(library, links)
    loader = _loader(given)
    for path in (loader, "/etc/ld.so.cache"):
        if path and os.path.exists(path):
            paths.add(_resolve(path, links))
    outermost = sorted(path for path in paths if not any(str(parent) in paths for parent in Path(path).parents))
    outside = {path: to for path, to in links.items() if not any(str(one) in paths for one in Path(path).parents)}
    hidden = {os.path.join(os.path.realpath(folder), "site-packages") for folder in folders}
    return Interpreter(
        program=given,
        paths=tuple(outermost),
        links=tuple(sorted(outside.items())),
        hidden=tuple(sorted(path for path in hidden if os.path.isdir(path))),
    )


def _resolve(path: str, links: dict[str, str]) -> str:
    """The real path of `path`, each link on the way kept in `links`."""
    here = "/"
    names = [name for name in path.split("/") if name]
    followed = 0
    while names:
        name = names.pop(0)
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        if name == "." or not os.path.islink(step):
            here = here if name == "." else step
            continue
        target = os.readlink(step)
        links[step] = target
        followed += 1
        if followed > 40:
            raise ConfigError(f"{path} is a circle of links", field="python")
        names = [part for part in target.split("/") if part] + names
        here = "/" if target.startswith("/") else here
    return here


def _siblings(libraries: Sequence[str]) -> list[str]:
    """Those beside the C library that are loaded late, or by packages that are built for every distribution."""
    folders = {os.path.dirname(path) for path in libraries if os.path.basename(path).startswith(("libc.so", "libc-"))}
    paths = [os.path.join(folder, name) for folder in folders for name in _LATE]
    return sorted({os.path.realpath(path) for path in paths if os.path.isfile(path)})


def _link_names(library: str, links: dict[str, str]) -> None:
    """Keep the links to `library` beside it: by one of them, and not by its file's name, it is asked for."""
    stem = os.path.basename(library).partition(".so")[0]
    with os.scandir(os.path.dirname(library)) as entries:
        for entry in entries:
            if entry.name.startswith(stem) and entry.is_symlink() and os.path.realpath(entry.path) == library:
                links[entry.path] = os.readlink(entry.path)


def _loader(program: str) -> str | None:
    """The path of the dynamic loader as it stands in an ELF file, by which the kernel looks for it."""
    with open(program, "rb") as file:
        found = re.search(rb"/lib[\w./-]*/ld[\w.-]*\.so[.\d]*", file.read(65536))
    return found[0].decode() if found else None
