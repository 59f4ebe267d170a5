"""Let `python -m llmedge` run the command line."""

from llmedge.cli.app import main

if __name__ == "__main__":
    main()
