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
SIZES = ((1_000, 500, 0, 0), (300_000, 2_000, 20_000, 0), (600_000, 100, 1_000, 3_000))

for provider in providers:
    for model in provider.models:
        costs: list[float | None] = []
        for given, made, cached, written in SIZES:
            usage = Usage(input_tokens=given, output_tokens=made, cache_read_tokens=cached, cache_write_tokens=written)
            try:
                told = calc_price(usage, model.id, provider_id=provider.id, genai_request_timestamp=NOW)
            except (LookupError, ValueError):
                costs.append(None)
            else:
                costs.append(float(told.total_price))
        print(json.dumps([provider.id, model.id, costs]))
