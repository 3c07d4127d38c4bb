"""Clips in, masks and volumes out."""

from echoforge_jax.inference.segmenter import Segmenter, load
from echoforge_jax.inference.stream import Stream

__all__ = ['Segmenter', 'Stream', 'load']
