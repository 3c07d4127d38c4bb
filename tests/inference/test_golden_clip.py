"""The shipped model on a real clip: the same masks and numbers as before.

`golden_clip.npz` and `golden_clip.json` hold what `echoforge segment` wrote
for pydicom's `examples_ybr_color.dcm` when the model was shipped.
"""

import json
import pathlib

import numpy as np
from pydicom import examples
import pytest
import SimpleITK as sitk

from echoforge_jax.__main__ import main

HERE = pathlib.Path(__file__).parent
# Rounding may move a pixel on the outline, as another compiler or another
# formulation of a convolution does.
MAX_SHARE_OF_PIXELS = 1e-5
# Values that follow from masks of which some pixels may differ.
TOLERANCE = {'area_px': 5, 'area_mm2': 5.5, 'frames': 1e-3, 'fit': 1e-6}

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('out')
  path = str(examples.get_path('ybr_color'))
  assert main(['segment', f'--out={out}', path]) == 0
  return out / 'examples_ybr_color'


def compare(found, wanted, name=''):
  """Compares nested values; floats nearly."""
  if isinstance(wanted, dict):
    assert wanted.keys() <= found.keys(), name
    for key, value in wanted.items():
      compare(found[key], value, key)
  elif isinstance(wanted, list):
    assert len(found) == len(wanted), name
    for one, other in zip(found, wanted):
      compare(one, other, name)
  elif isinstance(wanted, bool) or not isinstance(wanted, int | float):
    assert found == wanted, name
  else:
    near = pytest.approx(wanted, rel=2e-3, abs=TOLERANCE.get(name, 1e-9))
    assert found == near, name


def test_masks(folder):
  with np.load(HERE / 'golden_clip.npz') as golden:
    wanted = golden['masks']
  found = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / 'masks.nii.gz')))
  assert found.shape == wanted.shape
  differing = (found != wanted).mean()
  assert differing <= MAX_SHARE_OF_PIXELS, f'{differing:.1e} of all pixels'


def test_result(folder):
  found = json.loads((folder / 'result.json').read_text())
  wanted = json.loads((HERE / 'golden_clip.json').read_text())
  for frame in ('ed_frame', 'es_frame', 'frames', 'lag'):
    assert found[frame] == wanted[frame]
  assert found['model']['sha256'] == wanted['model']['sha256']
  compare(found, wanted)
