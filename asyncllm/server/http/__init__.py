"""Connections and what comes over them, before a route makes anything of it."""
