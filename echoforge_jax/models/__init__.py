"""Backbones, EchoForge and its parts as Linen modules."""
