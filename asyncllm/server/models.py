"""The models that a server has, by the names that requests use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.errors import NotFoundError

__all__ = ["Served"]

_TOLD = 20


class Served:
    """Nothing that a request says leads anywhere but to one of these."""

    def __init__(self, client: Client, models: Mapping[str, Model]) -> None:
        """Raises `ConfigError` where no model is there."""
        self._models: dict[str, Model] = dict(models)
        for model in models.values():
            client.resolve_model(model)
        if not models:
            name = client.resolve_model()
            self._models = {name: name}

    def names(self, allowed: Collection[str] | None = None) -> Sequence[str]:
        """All of them, or those of `allowed`, the default first."""
        return [name for name in self._models if allowed is None or name in allowed]

    def models(self) -> Sequence[Model]:
        """What the client calls them."""
        return list(self._models.values())

    def find(self, name: str, allowed: Collection[str] | None = None) -> tuple[str, Model]:
        """The name a request means, and what the client calls it. Raises `NotFoundError`, which says what there is."""
        name = name or next(iter(self.names(allowed)), "")
        if name not in self._models or (allowed is not None and name not in allowed):
            names = self.names(allowed)
            there = ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")
            raise NotFoundError(
                f"the model {name[:100]!r} is not served here; there is {there or 'none'}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return name, self._models[name]
