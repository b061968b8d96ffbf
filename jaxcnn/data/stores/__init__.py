"""Where examples are stored: each opens as a `records.Store`, whose splits are read at random."""
