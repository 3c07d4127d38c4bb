"""The harness of `make bench`."""
