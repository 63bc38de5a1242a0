"""Which pretrained networks exist, and their weights on disk."""
