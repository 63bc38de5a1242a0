"""Pretrained networks: model cards, the catalogue, and weights on disk."""
