"""The command line: one file per command. Click and Rich are used here and nowhere else."""
