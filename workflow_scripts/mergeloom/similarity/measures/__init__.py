"""One file per kin of measures, one function per measure."""
