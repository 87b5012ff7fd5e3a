"""A folder with one SQLite store in it: what has to outlive a process.

Needs the extra `asyncllm[batch]`. Everything that is kept goes through the repository class of its kind, such as
`BatchStore`; nobody else knows a table.
"""
