"""Readers of foreign files of networks: numpy and plain Python, no network library."""
