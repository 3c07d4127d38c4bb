"""Comparisons of evaluated runs."""
