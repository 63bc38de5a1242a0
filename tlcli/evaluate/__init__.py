"""Evaluation: predictions and scores of a classifier."""
