"""Recipes: their schema, reading and writing them, the reference page."""
