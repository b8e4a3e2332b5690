"""The command `mergeloom`."""
