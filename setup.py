"""Adds configs/ to the wheel as `echoforge_jax.configs`."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=['echoforge_jax*']), 'echoforge_jax.configs'],
  package_dir={'echoforge_jax.configs': 'configs'},
)
