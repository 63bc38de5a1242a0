"""Work on several machines: a connection to a Ray cluster, and a crew of workers that repeats what a lost one had."""
