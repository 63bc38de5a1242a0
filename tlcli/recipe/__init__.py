"""What the user asks for: schema, phases, loading, expectations."""
