"""From plan to trained classifier: policy, phases, steps, decisions."""
