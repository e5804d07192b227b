"""``python -m sarnb``."""

from sarnb.cli import main

if __name__ == "__main__":
    main()
