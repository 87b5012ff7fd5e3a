"""What code means by a name that it uses and has not imported."""

from __future__ import annotations

__all__ = ["KNOWN_IMPORTS"]

_FROM = {
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"),
    "dataclasses": ("dataclass", "field"),
    "decimal": ("Decimal", "getcontext"),
    "fractions": ("Fraction",),
    "functools": ("lru_cache", "partial", "reduce"),
    "itertools": ("combinations", "permutations", "product"),
    "math": ("ceil", "comb", "cos", "e", "exp", "factorial", "floor", "gcd", "lcm", "log", "pi", "sin", "sqrt", "tan"),
    "pprint": ("pprint",),
    "scipy.integrate": ("quad",),
    "scipy.optimize": ("fsolve",),
    "scipy.stats": ("norm",),
    "sympy": ("Eq", "Rational", "Symbol", "diff", "integrate", "simplify", "solve", "symbols"),
    "time": ("sleep",),
}
_MODULES = (
    "bisect", "calendar", "cmath", "collections", "copy", "csv", "datetime", "decimal", "fractions", "functools",
    "heapq", "io", "itertools", "json", "math", "operator", "os", "random", "re", "statistics", "string", "sympy",
    "sys", "time",
)  # fmt: skip
_SHORT = {
    "np": "numpy",
    "pd": "pandas",
    "plt": "matplotlib.pyplot",
    "sp": "sympy",
    "opt": "scipy.optimize",
    "stats": "scipy.stats",
}

KNOWN_IMPORTS = {
    **{name: f"import {name}" for name in _MODULES},
    **{short: f"import {module} as {short}" for short, module in _SHORT.items()},
    **{name: f"from {module} import {name}" for module, names in _FROM.items() for name in names},
}
"""The line that brings each name."""
