"""What all sections of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # A misspelt key must never become a silent default, and nothing may change a recipe once it was checked.
    # The text below a key is its description: in JSON schema, and in the page that `recipe_reference` makes of it.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
