"""Measurements that anyone can run; each says how in its docstring."""
