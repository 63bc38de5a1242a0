"""Synthetic images: classes of shapes and surfaces drawn by formula, and pretraining on them."""
