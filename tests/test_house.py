"""The house keeps its shape: who imports whom, what is public, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "asyncllm"
BACKENDS = sorted(path for path in (ROOT / "backends").iterdir() if (path / "__init__.py").exists())

FLOOR = {
    "errors": 0,
    "events": 0,
    "media": 0,
    "scrub": 0,
    "types": 0,
    "adapters": 1,
    "advice": 1,
    "backend": 1,
    "collect": 1,
    "dialect": 1,
    "estimate": 1,
    "exchange": 1,
    "lifetime": 1,
    "multipart": 1,
    "ndjson": 1,
    "rejection": 1,
    "sse": 1,
    "support": 1,
    "tools": 1,
    "totals": 1,
    "trail": 1,
    "trusted": 1,
    "typed": 1,
    "waiting": 1,
    "watchdog": 1,
    "batch_http": 2,
    "budgets": 2,
    "cache": 2,
    "calls": 2,
    "clock": 2,
    "config": 2,
    "finishing": 2,
    "hooks": 2,
    "identity": 2,
    "media_http": 2,
    "prices": 2,
    "registry": 2,
    "transport": 2,
    "workspace": 3,
    "middleware": 3,
    "repairs": 3,
    "sandbox": 3,
    "tokens": 3,
    "place": 4,
    "batch": 5,
    "jobs": 5,
    "media_calls": 5,
    "token_calls": 5,
    "once": 5,
    "routes": 5,
    "spread": 5,
    "stream": 5,
    "text_stream": 5,
    "toolruns": 5,
    "upkeep": 5,
    "client": 6,
    "instances": 6,
    "sync": 6,
    "__init__": 7,
    "server": 7,
    "cli": 8,
    "testing": 8,
    "__main__": 8,
}
"""Floor of each room. Rooms of one floor are neighbours only where `NEIGHBOURS` says so."""

NEIGHBOURS = {
    ("errors", "types"),  # a partial response inside an error, for type checkers alone
    ("types", "errors"),
    ("events", "types"),
    ("media", "errors"),
    ("media", "events"),
    ("media", "types"),
    ("backend", "events"),
    ("backend", "support"),  # which is part of this door
    ("sse", "errors"),
    ("collect", "events"),
    ("dialect", "backend"),
    ("dialect", "collect"),  # a file of results has responses, not their events
    ("dialect", "exchange"),
    ("estimate", "backend"),
    ("exchange", "backend"),
    ("exchange", "rejection"),
    ("rejection", "advice"),
    ("exchange", "sse"),
    ("rejection", "multipart"),  # to know a form's texts, which no error may repeat
    ("tools", "typed"),
    ("trusted", "backend"),
    ("trail", "backend"),  # for type checkers alone
    ("dialect", "ndjson"),
    ("dialect", "rejection"),
    ("dialect", "sse"),
    ("config", "backend"),
    ("client", "routes"),
    ("routes", "spread"),
    ("upkeep", "routes"),
    ("jobs", "batch"),  # many jobs go through the one fan-out
    ("jobs", "media_calls"),  # how pictures and recordings are given
    ("jobs", "once"),
    ("jobs", "routes"),
    ("instances", "client"),
    ("toolruns", "stream"),
    ("text_stream", "stream"),
    ("tokens", "client"),  # for type checkers alone
    ("server", "__init__"),  # its version
    ("sync", "client"),
    ("cli", "__init__"),
    ("cli", "testing"),  # the mock server alone
    ("__main__", "cli"),
}

HOMES = {
    "apsw": {"asyncllm/workspace"},
    "aiohttp": {"asyncllm/transport"},
    "anyio": {
        "asyncllm/finishing.py",
        "asyncllm/hooks",
        "asyncllm/middleware",
        "asyncllm/sync.py",
        "asyncllm/testing",
        "backends/asyncllm_llamacpp",
        "backends/asyncllm_vllm",
    },
    "botocore": {"backends/asyncllm_anthropic"},
    "lmdb": {"asyncllm/cache/disk.py"},
    "obstore": {"asyncllm/batch/places"},
    "opentelemetry": {"asyncllm/hooks/otel.py"},
    "pyarrow": {"asyncllm/batch/formats/parquet.py"},
    "pytest": {"asyncllm/testing"},
    "python_multipart": {"asyncllm/server/http/parts.py"},
    "ray": {"asyncllm/batch/workers/ray.py"},
    "sse_starlette": {"asyncllm/server"},
    "starlette": {"asyncllm/server"},
    "tomllib": {"asyncllm/config.py"},
    "uvicorn": {"asyncllm/server"},
    "vllm": {"backends/asyncllm_vllm"},
    "xllamacpp": {"backends/asyncllm_llamacpp"},
    "yarl": {"asyncllm/transport"},  # aiohttp's own type for addresses
}
"""Where each third-party library (and the one parser of a file format) lives; msgspec is at home everywhere."""

PLUGIN_DOORS = {
    "backend", "batch_http", "collect", "dialect", "errors", "events", "exchange", "media", "media_http", "multipart",
    "ndjson", "rejection", "sse", "trusted", "types",
}  # fmt: skip


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "asyncllm":
                yield from (f"asyncllm.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below_it(path: Path) -> None:
    here = room(path)
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("asyncllm.")} & FLOOR.keys()

    above = {other for other in rooms - {here} if FLOOR[other] >= FLOOR[here] and (here, other) not in NEIGHBOURS}

    assert not above


@pytest.mark.parametrize(
    "path", [file for folder in BACKENDS for file in sources(folder)], ids=lambda path: path.parent.name
)
def test_a_plugin_uses_the_plugin_doors_and_no_other_plugin(path: Path) -> None:
    own = path.relative_to(ROOT / "backends").parts[0]

    modules = set(imports(path))

    assert {name.split(".")[1] for name in modules if name.startswith("asyncllm.")} <= PLUGIN_DOORS
    assert {name.split(".")[0] for name in modules if name.startswith("asyncllm_")} <= {own}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in [*sources(PACKAGE), *sources(ROOT / "backends")]
        if any(name.split(".")[0] == library for name in imports(path))
    }

    strangers = {user for user in users if not any(user.startswith(home) for home in HOMES[library])}

    assert not strangers


@pytest.mark.parametrize(
    "path", [*sources(PACKAGE), *sources(ROOT / "backends")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_names_in_all_are_sorted_and_there(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    declared = [
        [element.value for element in node.value.elts if isinstance(element, ast.Constant)]
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
        and isinstance(node.value, ast.List)
    ]

    names = [str(name) for group in declared for name in group]

    assert names == sorted(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "module",
    [
        "asyncllm",
        "asyncllm.backend",
        "asyncllm.cache",
        "asyncllm.dialect",
        "asyncllm.dialect.responses",
        "asyncllm.instances",
        "asyncllm.ndjson",
        "asyncllm.sandbox",
        "asyncllm.sse",
        "asyncllm.testing",
    ],
)
def test_every_public_name_exists_and_explains_itself(module: str) -> None:
    door = importlib.import_module(module)

    silent = [
        name
        for name in door.__all__
        if (inspect.isclass(thing := getattr(door, name)) or inspect.isfunction(thing)) and not inspect.getdoc(thing)
    ]

    assert not silent


def test_every_public_method_explains_itself() -> None:
    import asyncllm

    silent = [
        f"{name}.{attribute}"
        for name in asyncllm.__all__
        if inspect.isclass(thing := getattr(asyncllm, name)) and thing.__module__.startswith("asyncllm")
        for attribute, value in vars(thing).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]

    assert not silent


def test_no_file_is_longer_than_its_reason_allows() -> None:
    # `types` says itself why it is long, `errors` is one tree, and tables of cases are tables.
    excused = {"asyncllm/types.py", "asyncllm/errors.py"}
    files = [*sources(PACKAGE), *sources(ROOT / "backends"), *sources(ROOT / "bench")]

    long = {
        name: lines
        for path in files
        if (name := str(path.relative_to(ROOT))) not in excused
        and (lines := len(path.read_text("utf-8").splitlines())) > 400
    }

    assert not long


def test_importing_loads_nothing_heavy_and_does_no_work() -> None:
    script = (
        "import sys; before = set(sys.modules); import asyncllm; loaded = set(sys.modules) - before;"
        "heavy = {'aiohttp', 'anyio', 'starlette', 'vllm', 'torch', 'apsw', 'pydantic', 'importlib.metadata',"
        "'tomllib', 'ssl', 'lmdb', 'opentelemetry', 'asyncllm.client', 'asyncllm.transport'};"
        "print(sorted(heavy & loaded))"
    )

    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_importing_opens_no_socket_and_reads_no_key() -> None:
    script = (
        "import sys, os\n"
        "seen = []\n"
        "watched = ('socket.', 'subprocess.')\n"
        "sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(watched) else None)\n"
        "class Environ(type(os.environ)):\n"
        "    def __getitem__(self, name):\n"
        "        seen.append(name) if 'KEY' in name else None\n"
        "        return super().__getitem__(name)\n"
        "os.environ.__class__ = Environ\n"
        "import asyncllm, asyncllm.client, asyncllm.testing\n"
        "print(seen)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
