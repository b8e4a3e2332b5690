"""Text tasks that are written here, from a few hundred words: no file is downloaded."""
