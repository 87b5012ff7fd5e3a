"""Who asks, by the keys of the store."""
