"""Transfer learning on image folders, from the command line."""

__version__ = "0.2.0"

# True in the `tlcli` program; its entry point sets it. Only a guarded program may start worker processes: each worker
# loads the main module of its parent, so an unguarded script would run again in every worker.
is_program = False
