"""What makes parts of the documentation from results; not part of the package."""
