"""Two views: biplane volumes of what segment left, and what stops them."""

import json
import math

import numpy as np
import pytest

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.inference import batch, outputs, pairs
from tests.inference.clips import segmentation


def half_ellipse(length, width, shape=(180, 160)):
  rows, columns = np.mgrid[: shape[0], : shape[1]]
  down, across = rows - 130.0, columns - 80.0
  return ((down / length) ** 2 + (across / width) ** 2 <= 1) & (down <= 0)


def left(folder, ed, es, spacing=(1.0, 1.0), flags=(), ed_frame=0):
  """Masks and result.json as `segment` writes them."""
  folder.mkdir()
  masks = np.stack([half_ellipse(*size) for size in (ed, es)]).astype(np.uint8)
  outputs.write_masks(folder / 'masks.nii.gz', masks, spacing or (1, 1))
  textio.write_json(
    folder / 'result.json',
    {
      'source': f'{folder.name}.dcm',
      'ed_frame': ed_frame,
      'es_frame': 1,
      'spacing_mm': spacing and list(spacing),
      'flags': list(flags),
      'ef_percent': 50.0,
      'disclaimer': 'not for clinical use',
    },
  )
  return folder


def test_volume_of_an_ellipsoid_with_three_axes(tmp_path):
  folders = {
    '4CH': left(tmp_path / 'four', (80, 25), (70, 18), flags=['area_jitter']),
    '2CH': left(tmp_path / 'two', (80, 30), (70, 20)),
  }
  found = pairs.measure_pair(folders)
  truth = [2 / 3 * math.pi * a * b * c / 1000 for a, b, c in ((80, 25, 30), (70, 18, 20))]
  assert found['edv_ml'] == pytest.approx(truth[0], rel=0.04)
  assert found['esv_ml'] == pytest.approx(truth[1], rel=0.04)
  assert found['ef_percent'] == pytest.approx(100 * (1 - truth[1] / truth[0]), abs=2)
  assert found['flags'] == ['area_jitter'] == list(found['flag_details'])
  assert found['views'] == {'4CH': 'four.dcm', '2CH': 'two.dcm'}
  json.dumps(found, allow_nan=False)
  assert 'biplane EF' in pairs.summary(found)


def test_a_foreshortened_view_is_flagged(tmp_path):
  found = pairs.measure_pair(
    {
      '4CH': left(tmp_path / 'a', (80, 25), (70, 18)),
      '2CH': left(tmp_path / 'b', (60, 25), (55, 18)),
    }
  )
  assert 'long_axes_differ' in found['flags']


def test_what_stops_a_pair(tmp_path):
  good = left(tmp_path / 'a', (80, 25), (70, 18))
  with pytest.raises(InputError, match='b.dcm: mm per pixel unknown'):
    pairs.measure_pair({'4CH': good, '2CH': left(tmp_path / 'b', (80, 25), (70, 18), spacing=None)})
  with pytest.raises(InputError, match=r'c.dcm: no ED and ES found \(still'):
    pairs.measure_pair(
      {
        '2CH': good,
        '4CH': left(tmp_path / 'c', (80, 25), (70, 18), flags=['still_image'], ed_frame=None),
      }
    )


class Known:
  """Gives the same beating ventricle for every clip."""

  def __init__(self, masks):
    self.masks = masks

  def locate(self, video, spacing_mm=None, region=None):
    return whole_image(video.shape[1:])

  def segment_clip(self, video, *_, **__):
    return segmentation(self.masks)


@pytest.mark.slow
def test_segment_measures_pairs_and_goes_on(tmp_path):
  rng = np.random.default_rng(0)
  sizes = ((80, 25), (75, 21), (70, 18), (75, 21), (80, 25))
  masks = np.stack([half_ellipse(*size) for size in sizes]).astype(np.uint8)
  paths = []
  for name in ('four', 'two', 'bad'):
    paths.append(tmp_path / f'{name}.npz')
    frames = rng.integers(1, 255, masks.shape, dtype=np.uint8)
    np.savez(paths[-1], frames=frames, spacing_mm=[1.0, 1.0], fps=10.0)
  paths[2].write_text('text')
  lines = []
  results, failures = batch.segment_files(
    Known(masks),
    [paths[0]],
    tmp_path / 'out',
    report=lines.append,
    pairs_of=[paths[:2], (paths[0], paths[2])],
  )
  assert set(results) == {'four', 'two'}  # The first was named twice.
  assert set(failures) == {str(paths[2]), f'{paths[0]} + {paths[2]}'}
  written = json.loads((tmp_path / 'out' / 'biplane.json').read_text())
  assert len(written['pairs']) == 1
  assert 40 < written['pairs'][0]['ef_percent'] < 60
  assert any('biplane EF' in line for line in lines)
  batch.segment_files(Known(masks), [paths[0]], tmp_path / 'out', report=lines.append)
  assert not (tmp_path / 'out' / 'biplane.json').exists()
