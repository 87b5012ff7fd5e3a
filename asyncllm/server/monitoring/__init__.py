"""What the server tells of itself: figures for Prometheus, usage by key, calls under way."""
