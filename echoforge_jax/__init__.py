"""EchoForge in JAX: semi-supervised left-ventricle segmentation of echo video.

The package is laid out in the order in which data flows: `phantom` makes synthetic patients, `data`
turns raw datasets into batches, `models` maps clips to masks, `training` and `parallel` fit them,
`evaluation` scores them and `inference` serves them. `commands` holds one file per verb.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from echoforge_jax.clip import Clip
  from echoforge_jax.inference.batch import segment_file
  from echoforge_jax.inference.segmenter import Segmenter, load
  from echoforge_jax.models.registry import build_model

__version__ = '0.2.0'
__all__ = ['Clip', 'Segmenter', 'build_model', 'load', 'segment_file']

# Imported when first asked for: JAX and its company take seconds.
_MODULES = {
  'Clip': 'echoforge_jax.clip',
  'Segmenter': 'echoforge_jax.inference.segmenter',
  'build_model': 'echoforge_jax.models.registry',
  'load': 'echoforge_jax.inference.segmenter',
  'segment_file': 'echoforge_jax.inference.batch',
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
