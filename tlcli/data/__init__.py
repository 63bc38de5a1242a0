"""From image files to pixels and splits."""
