#!/usr/bin/env python
"""Fine-tunes on a GLUE task with the square loss: python run_glue_sq.py --task mrpc (see --help)."""

from sqloss_plugins.hf.tasks.glue import main

if __name__ == "__main__":
    raise SystemExit(main())
