"""`python -m elmnet`."""

from elmnet.cli import main

if __name__ == "__main__":
    main()
