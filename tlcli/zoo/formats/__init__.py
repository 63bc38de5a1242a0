"""Readers of foreign file formats: bytes to arrays, with NumPy only."""
