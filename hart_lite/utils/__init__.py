"""Helpers that know nothing of models or data: files and locks, JSON lines, Markdown, text, progress bars, a client."""
