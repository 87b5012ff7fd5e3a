"""What every test can count on."""

import os
import signal

import pytest
from hypothesis import settings

# A shell that starts a command in the background has it ignore Ctrl-C, and what it starts in turn: the tests of
# interrupts would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# llama.cpp and torch share OpenMP, and whoever comes first decides how many threads it has. With more than one, each
# engine of vLLM would need an interpreter of its own, 15 seconds more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: what lands must not depend on luck, nor on how busy the machine is.
# HYPOTHESIS_PROFILE=random looks further.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what stays together where several processes share the work: a file, and all that has to do with vLLM.

    Its engines are large, and take long to start: one process has them, which begins with them.
    """
    items.sort(key=lambda item: "vllm" not in item.path.stem)
    for item in items:
        stem = item.path.stem
        item.add_marker(pytest.mark.xdist_group("vllm" if "vllm" in stem else stem))
