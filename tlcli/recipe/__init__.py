"""Recipes: schema, phases, loading, expectations."""
