"""Looking at networks, files and runs: the layer report, what training would take, and what training has changed."""
