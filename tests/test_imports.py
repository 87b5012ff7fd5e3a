"""What importing this package does to a process: it loads code, its own and that of what it declares, and no more."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# Watches from before the first import, then names every public name of every door.
AUDIT = """
import json, os, sys
seen = {"events": [], "opened": [], "environment": []}
QUIET = {"import", "compile", "exec", "marshal.loads", "os.listdir", "os.scandir", "sys._getframe",
         "object.__getattr__", "object.__setattr__", "object.__delattr__", "code.__new__", "builtins.id"}
def watch(event, arguments):
    if event == "open":
        seen["opened"].append([str(arguments[0]), str(arguments[1])])
    elif event not in QUIET:
        seen["events"].append(event)
class Environ(type(os.environ)):
    def __getitem__(self, name):
        seen["environment"].append(name)
        return super().__getitem__(name)
    def __iter__(self):
        seen["environment"].append("everything")
        return super().__iter__()
os.environ.__class__ = Environ
sys.addaudithook(watch)
before = set(sys.modules)
import asyncllm
for name in asyncllm.__all__:
    getattr(asyncllm, name)
print(json.dumps({**seen, "loaded": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def audit() -> dict[str, Any]:
    command = [sys.executable, "-I", "-B", "-W", "error", "-c", AUDIT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stderr == ""
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_importing_does_nothing_but_load_code(audit: dict[str, Any]) -> None:
    assert sorted(set(audit["events"])) == []


def test_importing_opens_code_and_no_other_file(audit: dict[str, Any]) -> None:
    homes = [str(ROOT / "asyncllm"), str(ROOT / "backends")]
    homes += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    others = [
        (path, mode)
        for path, mode in audit["opened"]
        if mode not in ("r", "rb", "None")
        or not path.endswith((".py", ".pyc", ".so"))
        or not path.startswith(tuple(homes))
    ]

    assert others == []


def test_importing_reads_no_variable_of_the_environment_that_may_hold_a_key(audit: dict[str, Any]) -> None:
    secret = re.compile("KEY|TOKEN|SECRET|PASS|everything|OPENAI|PROXY", re.IGNORECASE)

    assert [name for name in audit["environment"] if secret.search(name)] == []


def test_importing_loads_none_of_the_heavy_ones(audit: dict[str, Any]) -> None:
    heavy = {
        "aiohttp",
        "starlette",
        "vllm",
        "torch",
        "apsw",
        "opentelemetry",
        "xllamacpp",
        "pydantic",
        "openai",
        "httpx",
    }

    assert heavy & {name.partition(".")[0] for name in audit["loaded"]} == set()


def test_what_the_code_imports_comes_with_what_is_declared() -> None:
    declared = _closure("asyncllm")
    homes = importlib.metadata.packages_distributions()

    strangers = {
        f"{name} in {path.relative_to(ROOT)}"
        for folder in ("asyncllm", "backends")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in _imported(node)
        if name not in sys.stdlib_module_names
        and not name.startswith("asyncllm")
        and not {_normal(home) for home in homes.get(name, (name,))} & declared
    }

    # The kit is for tests: who uses its plugin has pytest, and who makes certificates has trustme.
    assert {one for one in strangers if not re.match("(pytest|trustme) in asyncllm/testing/", one)} == set()


def test_the_installed_package_declares_what_the_project_file_does() -> None:
    installed = importlib.metadata.requires("asyncllm") or []

    assert sorted(one for one in installed if "extra ==" not in one) == sorted(
        str(Requirement(one)) for one in PROJECT["dependencies"]
    )


def test_what_is_installed_runs_nothing_when_the_interpreter_starts() -> None:
    files = importlib.metadata.files("asyncllm") or []
    hooks = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]

    # An editable install has one, of folders alone; a line that begins with `import` would be run.
    lines = [line for hook in hooks for line in hook.read_text("utf-8").splitlines()]
    assert [line for line in lines if not Path(line).is_dir()] == []
    assert [str(file) for file in files if file.name in ("sitecustomize.py", "usercustomize.py")] == []


@pytest.mark.slow
def test_a_wheel_holds_our_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")

    names = zipfile.ZipFile(wheel).namelist()

    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "asyncllm",
        *(path.name for path in (ROOT / "backends").iterdir() if path.name.startswith("asyncllm_")),
    }
    assert [name for name in names if name.endswith((".pth", ".so", ".pyc", ".env", ".pem"))] == []


def _imported(node: ast.AST) -> list[str]:
    """The packages that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [str(node.module).partition(".")[0]]
    return []


def _closure(name: str) -> set[str]:
    """The distributions that come with one; of the first one, those that its extras name, but not what these bring."""
    installed = {_normal(one.name) for one in importlib.metadata.distributions()}
    found: set[str] = set()
    waiting = [name]
    named = {_normal(Requirement(one).name) for one in importlib.metadata.requires(name) or [] if "extra ==" in one}
    while waiting:
        one = _normal(waiting.pop())
        if one in found:
            continue
        found.add(one)
        if one not in installed:
            continue
        needs = map(Requirement, importlib.metadata.requires(one) or [])
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found | named


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
