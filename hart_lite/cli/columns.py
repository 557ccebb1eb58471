"""`--column ours=theirs`, for every command that reads rows."""

from __future__ import annotations

import argparse

from hart_lite.errors import HartError


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("--column", action="append", default=[], metavar="ours=theirs",
                         help="read only these fields, e.g. --column image=photo --column question=Text")  # fmt: skip


def read(arguments: argparse.Namespace) -> dict[str, str] | None:
    """Our field -> the name it has; None where nothing was said. Raises `HartError` for another form."""
    columns = dict(pair.split("=", 1) for pair in arguments.column if "=" in pair)
    if len(columns) != len(arguments.column):
        raise HartError(f"--column {arguments.column} should look like --column question=Text, each field once")
    return columns or None
