"""What the kit's own page shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import asyncllm.testing

PAGE = Path(asyncllm.testing.__file__).with_name("README.md").read_text("utf-8")


def test_every_example_of_the_page_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (test_\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
    for name, source in blocks:
        (tmp_path / name).write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout
    assert len(blocks) == PAGE.count("```python") == len(set(tmp_path.glob("test_*.py"))) == 8


def test_a_strangers_backend_takes_twenty_lines() -> None:
    block = PAGE.partition("```python\n# test_backend.py\n")[2].partition("```")[0]

    assert len([line for line in block.splitlines() if line.strip()]) <= 20


def test_the_page_names_every_piece_of_the_kit() -> None:
    classes = [name for name in asyncllm.testing.__all__ if name[0].isupper()]
    types = {
        "Authority",
        "Failure",
        "Gzip",
        "Newline",
        "Op",
        "RecordedCall",
        "Script",
        "SeenRequest",
        "SseItem",
        "Step",
    }

    assert [name for name in classes if name not in types and not re.search(rf"\b{name}\b", PAGE)] == []
