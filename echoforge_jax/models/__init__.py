"""Backbones, EchoForge and its parts as Linen modules."""

from echoforge_jax.models.registry import build_model

__all__ = ['build_model']
