"""Ahead-of-time plans for TPU topologies."""
