"""Meshes and shardings: the only place that names mesh axes."""
