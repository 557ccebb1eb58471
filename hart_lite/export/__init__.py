"""Merging an adapter into its base, proving the result, sharing it."""
