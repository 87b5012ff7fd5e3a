"""Many requests: fanned out in memory, or run durably from a file to a file."""
