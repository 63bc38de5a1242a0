"""Pretraining of one's own: networks that learn from pictures without labels, or from drawn ones."""
