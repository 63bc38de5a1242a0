"""Readers of foreign file formats, without a network library."""
