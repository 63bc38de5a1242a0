"""Run the command line as `python -m tlcli`."""

from tlcli.cli.main import main

if __name__ == "__main__":
    main()
