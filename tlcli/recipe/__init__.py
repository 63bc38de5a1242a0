"""What the user asks for: the recipe and its checks."""
