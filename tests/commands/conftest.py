"""Prepared records of bright discs, for commands that train."""

import numpy as np
import pytest

from echoforge_jax.clip import Clip
from echoforge_jax.data.prepare import prepare
from tests.readers import MadeUp

SPLITS = {'train': 4, 'validation': 1, 'test': 1}
SIZE = 32


def read_clip(patient, view):
  """A bright disc (lv) in a dark ring (myo), over a dark spot (la), that shrinks from ED to ES."""
  rng = np.random.default_rng([int(patient[1:]), view == '4CH'])
  rows, columns = np.mgrid[:SIZE, :SIZE]
  radii = np.linspace(9, 5, 6)[:, None, None]
  column = rng.uniform(12, 20)
  distance = (rows - 14) ** 2 + (columns - column) ** 2 + np.zeros_like(radii)
  inside, ring = distance < radii**2, (distance < (radii + 3) ** 2) & (rows < 20)
  spot = (abs(columns - column) < 4) & (rows > 14) & (rows < 29)
  masks = np.select([inside, spot, ring], [1, 3, 2]).astype(np.uint8)
  frames = 60 + 120 * inside - 30 * (masks > 1) + rng.normal(0, 15, inside.shape)
  return Clip(
    patient=patient,
    view=view,
    frames=frames.clip(0, 255).astype(np.uint8),
    masks=masks,
    labeled=np.ones(6, bool),
    ed=0,
    es=5,
    spacing_mm=np.ones(2, np.float32),
  )


@pytest.fixture(scope='module')
def disc_data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')
  bounds = np.cumsum([0, *SPLITS.values()])

  def clips_of(split):
    at = list(SPLITS).index(split)
    return [
      (f'p{i:02d}', view) for i in range(bounds[at], bounds[at + 1]) for view in ('2CH', '4CH')
    ]

  prepare('camus', root, root / 'data', SIZE, reader=MadeUp(root, clips_of, read_clip))
  return root / 'data'
