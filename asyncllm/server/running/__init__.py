"""The server as one process or several: where it listens, how it ends, and how it goes by another configuration."""
