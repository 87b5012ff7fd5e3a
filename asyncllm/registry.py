"""Installed backends by name: entry points of the group `asyncllm.backends`, imported on first use.

Listing reads metadata alone. A plugin that cannot be loaded is an error about that plugin, when it is asked for, and
about nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asyncllm.errors import AsyncLLMError, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

    from asyncllm.backend import Connect

__all__ = ["GROUP", "Plugin", "Registry"]

GROUP = "asyncllm.backends"
"""The entry-point group that a backend's distribution declares."""


class Plugin(Struct, frozen=True):
    """An installed backend, as its metadata describes it."""

    name: str
    target: str
    """Where `connect` is, as `module:attribute`."""
    distribution: str
    """Name and version of what installed it."""


class Registry:
    """The backends of this environment, read once and kept for as long as the registry lives."""

    def __init__(self) -> None:
        self._points: dict[str, list[EntryPoint]] | None = None
        self._loaded: dict[str, Connect] = {}

    def names(self) -> list[str]:
        """Registered names in alphabetical order. Imports nothing."""
        return sorted(self._found())

    def __contains__(self, name: str) -> bool:
        return name in self._found()

    def plugins(self) -> list[Plugin]:
        """Every registration, two under one name included. Imports nothing."""
        return [_describe(point) for name in self.names() for point in self._found()[name]]

    def load(self, name: str) -> Connect:
        """Import a backend and return its `connect`.

        Raises `PluginError`: nobody or more than one registers the name, or the import fails.
        """
        connect = self._loaded.get(name)
        if connect is None:
            connect = self._loaded[name] = self._import(name)
        return connect

    def beside(self, name: str, function: str) -> Callable[..., Any] | None:
        """A function that stands beside a backend's `connect`, such as `about`, where there is one.

        Raises `PluginError` as `load` does.
        """
        self.load(name)
        (point,) = self._found()[name]
        found = getattr(sys.modules.get(point.module), function, None)
        return found if callable(found) else None

    def _import(self, name: str) -> Connect:
        points = self._found().get(name, [])
        if not points:
            raise PluginError(
                f"no backend is called {name!r}; installed are {', '.join(self.names()) or 'none'}",
                backend=name,
                field="model",
            )
        if len(points) > 1:
            raise PluginError(
                f"two distributions register the backend {name!r}: "
                f"{' and '.join(_describe(point).distribution for point in points)}; uninstall one of them",
                backend=name,
            )
        plugin = _describe(points[0])
        try:
            connect = points[0].load()
        except AsyncLLMError:
            raise
        except Exception as error:
            raise PluginError(
                f"the backend {name!r} of {plugin.distribution} cannot be imported from {plugin.target}: "
                f"{type(error).__name__}: {error}",
                backend=name,
            ) from error
        if not callable(connect):
            raise PluginError(
                f"the backend {name!r} of {plugin.distribution} names {plugin.target}, which is not a function",
                backend=name,
            )
        return connect  # type: ignore[no-any-return]  # an entry point has no type; its use will show what it is

    def _found(self) -> dict[str, list[EntryPoint]]:
        if self._points is None:
            # Imported here: reading metadata costs more than all of `import asyncllm`.
            from importlib.metadata import entry_points

            found: dict[tuple[str, str, str], EntryPoint] = {}
            for point in entry_points(group=GROUP):
                # One distribution can be on the path twice, as an editable install beside a built one.
                owner = point.dist.name if point.dist else ""
                found.setdefault((point.name, owner, point.value), point)
            self._points = {}
            for (name, _, _), point in found.items():
                self._points.setdefault(name, []).append(point)
        return self._points


def _describe(point: EntryPoint) -> Plugin:
    owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
    return Plugin(point.name, point.value, owner)
