"""What every test can count on."""

import os
import signal

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
