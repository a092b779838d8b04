"""Command lines: ESPnet's own with the plugin registered, and export to plain ESPnet."""
