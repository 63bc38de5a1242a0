"""Transfer learning on image folders, from the command line."""

__version__ = "0.1.0"

# True in the `tlcli` program, set by its entry point. Only a guarded program may start worker processes: each of them
# loads the main module of its parent, and an unguarded script would run once more in every one of them.
is_program = False
