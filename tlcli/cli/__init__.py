"""The door: Click commands and Rich output."""
