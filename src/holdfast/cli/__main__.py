"""`python -m holdfast.cli` is `holdfast`."""

from .app import main

if __name__ == "__main__":
    main()
