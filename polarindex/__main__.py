"""python -m polarindex: the same as the command polarindex."""

from polarindex.cli import main

if __name__ == "__main__":
    main()
