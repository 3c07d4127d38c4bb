"""SSCF, a quarter as wide, on phantom patients: minutes on two CPU cores.

  python -m echoforge_jax phantom --layout=camus --out=RAW --patients=100 \\
      --test=25 --seed=0
  python -m echoforge_jax prepare --dataset=camus --raw=RAW --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/phantom_sscf_lite.py \\
      --workdir=RUN --config.data.data_dir=DATA

Append :supervised to the config's name to learn from labeled frames alone.

Hardware:   two CPU cores
Run time:   measured: 17 min of processor time (400 steps), 25 min on cores that
            other programs shared
Dice (lv), phantom test split, 25 patients, seed 0, measured:
            camus_full 90.5 % [88.5, 92.3]; EF r .89 [.77, .96], bias -17.0
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` is '' or 'supervised'."""
  config = base_config('sscf', lite=True)
  config.num_steps = 400
  config.eval.every = config.checkpoint_every = 200
  config.optimizer.learning_rate = 1e-3
  return apply_variant(config, arg)
