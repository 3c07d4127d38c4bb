"""Clips in, masks and volumes out."""
