"""Models by name."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.models.echoforge import make_echoforge
from echoforge_jax.models.sscf import make_sscf

MODELS = {'echoforge': make_echoforge, 'sscf': make_sscf}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def build_model(name: str, **options: Any) -> nn.Module:
  """Builds the model `name`, a key of `MODELS`, from its fields.

  `dtype` is a dtype or a key of `DTYPES`. `apply(variables, video, train=False)` of the returned
  module gives a dict with `logits`. An InputError lists the choices.
  """
  if name not in MODELS:
    raise InputError(f'model name: found {name!r}, wanted one of {", ".join(MODELS)}')
  dtype = options.get('dtype')
  if isinstance(dtype, str):
    if dtype not in DTYPES:
      raise InputError(f'model option dtype: found {dtype!r}, wanted one of {", ".join(DTYPES)}')
    options['dtype'] = DTYPES[dtype]
  return MODELS[name](**options)
