"""Where the README's figures come from: peers measured side by side in one run.

`python -m bench` lists the benchmarks. Nothing here asserts a time: a run prints what it saw next to the target, and
says met or NOT MET. Only ratios within one run travel between machines; microseconds do not.
"""
