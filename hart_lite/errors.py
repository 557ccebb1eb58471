"""Errors a user can act on: each says what was given, what is allowed and what to do."""

from __future__ import annotations


class HartError(Exception):
    """An error the user can act on: says what was given, what is allowed and what to do."""


class BrokenImageError(HartError):
    """An image that cannot be read although the check of the data let it pass; `key` is its source's."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class NotFiniteError(HartError):
    """The model's scores are NaN or infinite, so that nothing can be drawn from them."""
