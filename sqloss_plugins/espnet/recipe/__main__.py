"""``python -m sqloss_plugins.espnet.recipe``: the same as ``sqloss asr``."""

import sys

from sqloss_plugins.espnet.recipe import main

sys.exit(main())
