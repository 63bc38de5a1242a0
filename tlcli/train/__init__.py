"""How it learns: plan, policies, freezing, phases, checkpoints."""
