"""`python -m ft` is the same as the command `ft`."""

from ft.cli import main

if __name__ == "__main__":
    main()
