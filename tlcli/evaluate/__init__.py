"""How good it is: scores and predictions."""
