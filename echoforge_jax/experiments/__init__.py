"""Studies that train and compare many runs."""
