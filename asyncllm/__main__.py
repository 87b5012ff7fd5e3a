"""`python -m asyncllm`: the same command as `asyncllm`."""

import sys

from asyncllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
