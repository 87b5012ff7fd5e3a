"""Rows asked outside of this process: by processes of this machine, or by actors of a Ray cluster.

The runner stays where it is, with the store, the lease, the order and the export; only asking is handed out. A worker
has a client of its own, made as the one of the batch was made, and so an engine of its own where a backend runs inside
the process.
"""
