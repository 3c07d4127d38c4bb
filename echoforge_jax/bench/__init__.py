"""Benchmarks and studies: what `echoforge bench` runs."""
