"""Run folders in, tables and figures out; the only room that imports matplotlib (lazily)."""
