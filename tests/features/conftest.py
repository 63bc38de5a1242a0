"""Fixtures of the laboratory."""

from laboratory import cells_lab, lab, recorder

__all__ = ["cells_lab", "lab", "recorder"]
