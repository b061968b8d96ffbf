"""Image files: one door for all of them, to be trained on, scored or looked at."""
