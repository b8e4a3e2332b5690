"""One file per kin of merge methods, one function per method."""
