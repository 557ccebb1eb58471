"""Errors a user can act on: each says what was given, what is allowed and what to do."""

from __future__ import annotations


class HartError(Exception):
    """The parent of all; callers who react to a kind catch one of those below."""


class ConfigError(HartError):
    """A recipe, an argument or an environment that cannot be used."""


class DataError(HartError):
    """A row, a file or a data set that cannot be read, or is not what it should be."""


class BrokenImageError(DataError):
    """An image that cannot be read although the check of the data let it pass; `key` is its source's."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class ModelError(HartError):
    """A model, an adapter or a server that cannot be loaded, does not fit, or gives no answer."""


class ServerError(ModelError):
    """A server of rollouts that is away, is another than the recipe asks for, or fails."""


class NotFiniteError(ModelError):
    """The model's scores are NaN or infinite, so that nothing can be drawn from them."""


class RewardError(HartError):
    """A reward function that raised, was too slow, or returned no number from 0 to 1."""


class CheckpointError(HartError):
    """A run, a checkpoint or a record that is damaged, or cannot be written."""
