"""One program for each engine, run by that engine's own interpreter; see `protocol`."""
