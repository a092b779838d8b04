"""``python -m sqloss_plugins``: the command ``sqloss``."""

from sqloss_plugins.cli import main
from sqloss_plugins.processes import die_with_parent

if __name__ == "__main__":
    die_with_parent()  # where a sweep has started it
    raise SystemExit(main())
