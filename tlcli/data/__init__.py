"""Image files to pixels and splits."""
