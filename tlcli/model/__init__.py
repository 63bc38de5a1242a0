"""The network: cut points, layer groups, selection, backbone, head and classifier."""
