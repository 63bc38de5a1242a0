"""What is trained: layer groups, backbone, head."""
