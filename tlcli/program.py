"""What this process is."""


class Program:
    """Whether this process is the program `tlcli` itself, and not a script that imports from it.

    Who begins new processes must know: each loads the main module of its parent. A script that is not guarded by
    `if __name__ == "__main__"` would run once more in each, and so without end; the program is guarded.
    """

    is_own = False
