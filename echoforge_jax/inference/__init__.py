"""Clips in, masks and volumes out."""

from echoforge_jax.inference.segmenter import Segmenter, Stream, load

__all__ = ['Segmenter', 'Stream', 'load']
