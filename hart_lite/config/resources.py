"""Files that travel with the package: the shipped recipes and the toy base model."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TOY_BASE = PACKAGE / "toy" / "base_model"


def shipped_recipes() -> list[Path]:
    """The recipes that come with the project, from the installed package or from a checkout."""
    installed = PACKAGE / "_recipes"  # where the wheel puts the checkout's recipes/
    return sorted((installed if installed.is_dir() else PACKAGE.parent / "recipes").glob("*.yaml"))
