"""Shared fixtures: a cluster of three nodes."""

from ray_work import cluster, ray_nodes

__all__ = ["cluster", "ray_nodes"]
