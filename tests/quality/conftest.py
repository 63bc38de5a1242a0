"""Fixtures of image folders with faults."""

from image_folders import found, given, good, looked, picture

__all__ = ["found", "given", "good", "looked", "picture"]
