"""`asyncllm keys`: the keys that a server gives out."""
