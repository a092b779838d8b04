"""Tasks for the Trainer, each a declaration that :mod:`sqloss_plugins.hf.experiment` carries out."""
