"""Run beside genai-prices, in an environment of its own: what that library says of each model, as JSON lines.

Not imported by any test.
"""

from __future__ import annotations

import datetime as dt
import json
import sys

from genai_prices import Usage, calc_price  # type: ignore[import-not-found,unused-ignore]
from genai_prices.data import providers  # type: ignore[import-not-found,unused-ignore]

NOW = dt.datetime.fromisoformat(sys.argv[1])
USAGES = (
    {"input_tokens": 1_000, "output_tokens": 500, "cached_tokens": 0, "cache_write_tokens": 0},
    {"input_tokens": 300_000, "output_tokens": 2_000, "cached_tokens": 20_000, "cache_write_tokens": 0},
    {"input_tokens": 600_000, "output_tokens": 100, "cached_tokens": 1_000, "cache_write_tokens": 3_000},
)

for provider in providers:
    for model in provider.models:
        costs: list[tuple[dict[str, int], float | None]] = []
        for usage in USAGES:
            counts = {name.replace("cached_", "cache_read_"): count for name, count in usage.items()}
            try:
                told = calc_price(Usage(**counts), model.id, provider_id=provider.id, genai_request_timestamp=NOW)
            except (LookupError, ValueError):
                costs.append((usage, None))
            else:
                costs.append((usage, float(told.total_price)))
        print(json.dumps([provider.id, model.id, costs]))
