"""Protocols, metrics, ejection fraction, statistics, report."""
