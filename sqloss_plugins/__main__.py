"""``python -m sqloss_plugins``: the command ``sqloss``."""

from sqloss_plugins.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
