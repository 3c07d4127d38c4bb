"""EchoForge, lite, on CAMUS ED and ES frames: three structures, minutes on two CPU cores.

  python -m echoforge_jax prepare --dataset=camus --raw=DIR --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/camus_stills.py \\
      --workdir=RUN --config.data.data_dir=DATA

The left ventricle, its myocardium and the left atrium, from labels alone: in copies of CAMUS
without sequences every frame is labeled. ED and ES of a view are a clip of two frames, in either
order. Length and augmentation were chosen on the last 60 of the 399 training patients, trained on
the others.

Append a row of the comparison to the config's name: :tsf_arc (default), :baseline, and others of
`training.variants`; those that learn from unlabeled frames want --config.data.labeled_patients and
--config.unlabeled_batch_size.

Hardware:   two CPU cores
Run time:   measured: 14 min, beside another training
Dice, CAMUS ED/ES frames (Leclerc et al., IEEE TMI 2019), 50 official validation patients, both
            views, seed 0, last step, measured: lv 93.4 % [92.6, 94.1], myo 86.8 [85.7, 87.7],
            la 91.5 [90.7, 92.2]
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.batch_size = 8
  config.num_steps = 2400
  config.data.classes = ('lv', 'myo', 'la')
  # ED and ES; both are labeled.
  config.data.num_frames = 2
  config.model.memory_frames = 1
  # Milder than in the other lite configs: docs/lab/camus_stills.md.
  config.data.augmentation.update(
    rotation_deg=10.0,
    scale=0.12,
    translation=0.06,
    temporal_jitter=0.0,
    elastic=0.015,
    strong_gamma=0.3,
    contrast=0.2,
    speckle=0.08,
    blur=0.003,
    attenuation=0.1,
    haze=0.05,
    shadow=0.05,
    dropout=0.05,
  )
  config.semi.ema_decay = 0.995
  config.eval.every = config.checkpoint_every = 600
  config.eval.max_clips = 0
  config.eval.batch_size = 8
  return apply_variant(config, arg or 'tsf_arc')
