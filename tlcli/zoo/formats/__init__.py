"""Readers of foreign file formats, without any network library."""
