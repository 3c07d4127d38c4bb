"""Configs of the folder configs/, for tests."""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

ROOT = Path(__file__).parents[1]


def load_config(name: str, arg: str = '', **fields) -> ConfigDict:
  """Returns the config of configs/NAME.py.

  Args:
    name: of the file, without its suffix.
    arg: what follows the colon of `--config=configs/NAME.py:ARG`.
    **fields: top-level fields to change, a dict for a nested one.

  Returns:
    The locked config.
  """
  config = importlib.import_module(f'configs.{name}').get_config(arg)
  if fields:
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.update(fields)
  return config
