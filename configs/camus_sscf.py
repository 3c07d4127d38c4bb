"""SSCF on CAMUS: the predecessor, trained as a mean teacher with consistency.

The architecture is the published module's (53.7 M parameters); it learns from windows of three
neighbouring frames of the ten sampled from ED to ES. The paper's optimizer, augmentation and
weights are not public: this config takes EchoForge's, so that the two compare (ours).

  python -m echoforge_jax prepare --dataset=camus --raw=DIR --data_dir=DATA \\
      --image_size=256
  python -m echoforge_jax train --config=configs/camus_sscf.py \\
      --workdir=RUN --config.data.data_dir=DATA

Append :supervised to the config's name to learn from labeled frames alone.

Hardware:   one GPU
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` is '' or 'supervised'."""
  return apply_variant(base_config('sscf'), arg)
