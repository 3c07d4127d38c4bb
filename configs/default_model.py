"""EchoForge, lite, on endless domain-randomized phantoms: the default model.

  python -m echoforge_jax train --config=configs/default_model.py --workdir=RUN
  python -m echoforge_jax export --checkpoint=RUN --out=FILE.safetensors

Needs no data: every clip is a new phantom patient, drawn while training. Learns from labels of all
frames (the phantom has them), so that no teacher gives labels; the averaged parameters are what is
shipped.

Hardware:   two CPU cores
Run time:   measured: 88 min, shared with other programs; 2.1 steps a second
            while they rested
Dice (lv), 64 randomized clips held out, measured: 91.7 %; figures on other
            phantoms and a real clip: docs/default_model.md
"""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.errors import InputError
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; there are no variants."""
  if arg:
    raise InputError(f'config argument {arg!r}: there are no variants')
  config = base_config(lite=True)
  config.batch_size = 8
  config.num_steps = 7000
  # Clips are drawn by `phantom.stream`; no data_dir or label_fraction is read.
  config.data.dataset = 'phantom_stream'
  config.data.data_dir = ''
  config.data.cache_mb = 0
  # How clips are drawn and used, described at `StreamConfig`.
  config.data.stream = ConfigDict(dataclasses.asdict(StreamConfig()))
  # Every frame of a phantom is labeled: nothing needs pseudo-labels, or CPR.
  config.data.supervision = 'full'
  # From ED to ES, or of any part of one or two beats: no jitter is needed.
  config.data.augmentation.update(
    rotation_deg=15.0,
    scale=0.2,
    translation=0.08,
    temporal_jitter=0.0,
    strong_gamma=0.5,
    contrast=0.3,
    attenuation=0.4,
    haze=0.15,
    shadow=0.2,
    dropout=0.2,
  )
  config.semi.ema_decay = 0.998
  config.eval.every = 1000
  config.eval.max_clips = 0
  config.eval.batch_size = 8
  config.log_every = 50
  config.checkpoint_every = 500
  return apply_variant(config, 'tsf_arc')
