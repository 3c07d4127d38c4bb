"""Synthetic patients with exact truth."""
