"""Shared fixtures: a tiny network."""

from laboratory import lab

__all__ = ["lab"]
