"""A dataset of your own: one class of four methods, two of which have defaults.

    echoforge verify  --dataset=examples.own_dataset:Reader --raw=RAW
    echoforge prepare --dataset=examples.own_dataset:Reader --raw=RAW --data_dir=DATA \\
        --image_size=128
    echoforge train   --config=phantom_lite:baseline --workdir=RUN \\
        --config.data.dataset=examples.own_dataset:Reader --config.data.data_dir=DATA

RAW holds `splits.csv`, with the columns patient and split, and a file `patient.npz` per patient:
`frames` and `masks`, uint8 [T, H, W], from end-diastole to end-systole, and `spacing_mm` [2].
"""

import csv

import numpy as np

from echoforge_jax import Clip
from echoforge_jax.data.datasets import Reader as Base
from echoforge_jax.errors import InputError


class Reader(Base):
  """Reads one apical four-chamber clip of each patient."""

  def __init__(self, raw_dir):
    super().__init__(raw_dir)
    with open(self.raw_dir / 'splits.csv', newline='') as file:
      self.splits = {row['patient']: row['split'] for row in csv.DictReader(file)}

  def list_clips(self, split, scheme):
    """Returns (patient, view) of the clips of 'train', 'validation' or 'test'."""
    return [(patient, '4CH') for patient, own in self.splits.items() if own == split]

  def read_clip(self, patient, view):
    """Reads one clip; `prepare` squeezes it to its grid."""
    path = self.raw_dir / f'{patient}.npz'
    if not path.is_file():
      raise InputError(f'{path}: no such file; wanted the clip of {patient}: export it, or drop it')
    with np.load(path) as arrays:
      frames, masks, spacing = (arrays[name] for name in ('frames', 'masks', 'spacing_mm'))
    return Clip(
      patient=patient,
      view=view,
      frames=frames,
      masks=masks,
      labeled=(masks == 1).any(axis=(1, 2)),  # Frames without a left ventricle have no label.
      ed=0,
      es=len(frames) - 1,
      spacing_mm=spacing.astype(np.float32),
    )

  # `verify` reads every clip unless you write your own, which yields `formats.findings.Finding`.
