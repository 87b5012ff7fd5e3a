"""`asyncllm jobs`: look at a job, wait for it, or have it cancelled, by the id that it was submitted with."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from asyncllm.backend import JobState
from asyncllm.cli.output import note, print_json, say
from asyncllm.cli.status import FAILED, OK
from asyncllm.client import Client
from asyncllm.errors import ConfigError, OutputExistsError, WriteError
from asyncllm.jobs import Job
from asyncllm.types import Response

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Do to the job what is asked, and return the exit status. Raises `AsyncLLMError`, `KeyboardInterrupt`."""
    output: Path | None = Path(args.output) if getattr(args, "output", None) else None
    if output is not None and output.exists():
        raise OutputExistsError(f"{output.name!r} is there already: name another file", field="output")
    return asyncio.run(_run(args, output))


async def _run(args: Namespace, output: Path | None) -> int:
    async with Client() as client:
        job = client.job(args.id)
        if args.action == "cancel":
            await job.cancel()
        elif args.action == "status":
            await job.poll()
        else:
            return await _wait(job, args, output)
        return _tell(job, args)


async def _wait(job: Job[Any], args: Namespace, output: Path | None) -> int:
    told = None
    async for state in job.events(timeout=args.timeout):
        line = _line(state)
        if line != told and not args.json:
            told = line
            note(line)
    if job.status != "succeeded":
        return _tell(job, args)
    made = await job.result()
    if isinstance(made, Response):
        if output is None:
            _say_answer(job, made, args)
            return OK
        data = made.text.encode()
    else:
        data = bytes(made)
    if output is None:
        raise ConfigError("the job has made a file: name where it goes with --output", field="output")
    await asyncio.to_thread(_write, output, data)
    if args.json:
        print_json({**_facts(job), "output": str(output), "bytes": len(data)})
    else:
        note(f"{len(data)} bytes in {output}")
    return OK


def _say_answer(job: Job[Any], answer: Response, args: Namespace) -> None:
    if args.json:
        print_json({**_facts(job), "text": answer.text, "usage": msgspec.to_builtins(answer.usage)})
    else:
        say(answer.text)


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise OutputExistsError(f"{path.name!r} is there already: name another file", field="output") from None
    except OSError as error:
        raise WriteError(f"{path.name!r} cannot be written: {error.strerror or type(error).__name__}") from error


def _tell(job: Job[Any], args: Namespace) -> int:
    if args.json:
        print_json(_facts(job))
    else:
        say(_line(job.state))
        if job.state.error is not None:
            note(str(job.state.error))
    return OK if job.status in ("queued", "running", "succeeded") or args.action == "cancel" else FAILED


def _line(state: JobState) -> str:
    done = "" if state.progress is None else f" {state.progress:.0%}"
    return f"{state.status}{done}"


def _facts(job: Job[Any]) -> dict[str, Any]:
    error = job.state.error
    return {
        "id": job.id,
        "status": job.status,
        "progress": job.state.progress,
        "error": None if error is None else str(error),
    }
