"""Comparisons of finished runs, made from their result files alone."""
