"""Which pretrained models exist and where their weights are."""
