"""Synthetic images: classes of shapes and textures rendered from formulas, and pretraining on them."""
