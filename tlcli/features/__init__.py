"""Outputs of frozen layers: computed once, stored by content, found again."""
