"""The configuration and its presets: read, checked, and explained when wrong."""
