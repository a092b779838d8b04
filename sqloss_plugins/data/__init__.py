"""Data sets of the tasks, and the mini data that stands in where the real data is not at hand."""
