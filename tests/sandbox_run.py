"""Opens a sandbox in a process of its own and runs the snippets of standard input, a JSON object, in it: for tests that
need another user, or a machine that lacks something. Prints what became of each as JSON, or the error of opening."""

from __future__ import annotations

import asyncio
import json
import sys

from asyncllm.errors import ConfigError
from asyncllm.sandbox import open_sandbox


async def main(kind: str) -> object:
    try:
        sandbox = await open_sandbox(kind)  # type: ignore[arg-type]
    except ConfigError as error:
        return {"error": error.message, "code": error.code}
    found = {}
    for name, (code, timeout_s) in json.load(sys.stdin).items():
        print("running", name, file=sys.stderr, flush=True)
        ran = await sandbox.run(code, timeout_s=timeout_s)
        found[name] = {"status": ran.status, "stdout": ran.stdout, "stderr": ran.stderr}
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
