"""Shared fixtures: a tiny network, its images, and an observer."""

from laboratory import cells_lab, lab, recorder

__all__ = ["cells_lab", "lab", "recorder"]
