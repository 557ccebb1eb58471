"""Helpers that know nothing of models or data: files, locks, Markdown, text."""
