"""Fixtures of a tiny network."""

from laboratory import cells_lab, lab, recorder

__all__ = ["cells_lab", "lab", "recorder"]
