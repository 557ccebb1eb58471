"""Asking a model: prompts, the loops as protocols, and the engines that answer them."""
