"""Fixtures of image folders."""

from image_folders import clean_data, clean_splits, findings_of, make_image, run_check

__all__ = ["clean_data", "clean_splits", "findings_of", "make_image", "run_check"]
