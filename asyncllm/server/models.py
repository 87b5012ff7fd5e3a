"""The models that a server has, by the names that requests use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        self._default = next(iter(self._models))

    @property
    def names(self) -> Sequence[str]:
        """All of them, the default first."""
        return list(self._models)

    def find(self, name: str) -> tuple[str, Model]:
        """The name a request means, and what the client calls it. Raises `NotFoundError`, which says what there is."""
        name = name or self._default
        model = self._models.get(name)
        if model is None:
            there = ", ".join(self.names[:_TOLD]) + (", ..." if len(self._models) > _TOLD else "")
            raise NotFoundError(
                f"the model {name[:100]!r} is not served here; there is {there}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return name, model
