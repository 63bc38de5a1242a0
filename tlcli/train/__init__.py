"""Training: plan, policy, phases, steps, decisions."""
