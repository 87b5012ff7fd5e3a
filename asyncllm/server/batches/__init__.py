"""Batches of the server's tenants, worked off by the durable runner: `work` has them all, `run` is one of them."""
