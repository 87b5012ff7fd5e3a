"""A vendor's own SDK in an environment of its own, run against a server of a test."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / ".cache" / "sdks"


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of an environment with exactly `requirements` and what they need, made on first use."""
    folder = _FOLDER / name
    python = folder / "bin" / "python"
    made = folder / "made"
    wanted = "\n".join(requirements)
    if not made.exists() or made.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        made.write_text(wanted, "utf-8")
    return python


async def run(python: Path, script: str, given: Any, env: dict[str, str]) -> Any:
    """What `script` prints on its last line, as JSON; it finds `given` in the variable of that name."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-c", f"import json, sys\ngiven = json.load(sys.stdin)\n{script}"),
        env={"PATH": os.environ["PATH"], "HOME": str(_FOLDER), **env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps(given).encode())
    assert process.returncode == 0, errors.decode()[-3000:]
    return json.loads(output.splitlines()[-1])
