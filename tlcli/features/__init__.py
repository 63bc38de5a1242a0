"""Outputs of frozen layers: where they are stored, and how they are computed."""
