"""Malformed and odd inputs: one clear line each, and nothing else suffers.

Every file is made here; `odd_files.py` beside this file lists them.
"""

import contextlib
import json

import numpy as np
from PIL import Image
import pytest

from echoforge_jax import inference
from echoforge_jax.__main__ import main
from echoforge_jax.formats import dicom, raw_clip, volumes
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import outputs
from echoforge_jax.inference.segmenter import Segmentation
from tests.formats.odd_files import rows, speckle

SMALL_LIMIT = 48 * 2**20  # Stands for the 4 GiB that clips may have.


class Thresholder:
  """A Segmenter without a network: what is dark in the sector."""

  classes, receipt = ('lv',), {'name': 'thresholder'}

  def locate(self, video, spacing_mm=None, region=None):
    row_mm = float('nan') if spacing_mm is None else spacing_mm[0]
    return sectors.limit_depth(sectors.find_sector(video, region), row_mm)

  def segment_clip(self, video, spacing_mm=None, *, fps=0.0, sector=None, lag=0):
    masks = np.zeros(video.shape, np.uint8)
    for frame, mask in zip(video, masks):
      dark = (sector.crop(frame) < 60).astype(np.uint8)
      mask[:] = sector.paste(dark, frame.shape)
    return Segmentation(masks, np.ones(len(masks)), masks, sector, lag)


@pytest.fixture
def fake(monkeypatch):
  """The verb without a network, plots and films; small limits."""
  monkeypatch.setattr(inference, 'load', lambda *_: Thresholder())
  monkeypatch.setattr(raw_clip, 'MAX_BYTES', SMALL_LIMIT)
  monkeypatch.setattr(volumes, 'MAX_VOXEL_BYTES', SMALL_LIMIT)
  for name in ('overlay', 'gif', 'sheet', 'curve'):
    monkeypatch.setattr(outputs, f'write_{name}', lambda path, *_: path.write_bytes(b''))
  is_dicom = dicom.is_dicom

  def locked(path):  # Root may read everything: no mode bits keep it out.
    if path.name == 'locked.npy':
      raise PermissionError(13, 'Permission denied')
    return is_dicom(path)

  monkeypatch.setattr(dicom, 'is_dicom', locked)


def problems_of(name, path, wanted, lines, result):
  """What is wrong with what was said about one input."""
  flat = ' '.join(str(path).splitlines())
  said = [line for line in lines if line.startswith('error: ') and flat in line]
  if isinstance(wanted, set):
    if said or result is None:
      return [f'{name}: refused: {said}']
    missing = wanted - set(result['flags'])
    return [f'{name}: no {missing} in {result["flags"]}'] if missing else []
  if result is not None:
    return [f'{name}: was taken {result["flags"]}']
  if len(said) != 1:
    return [f'{name}: {len(said)} lines']
  line = said[0]
  good = any(text in line for text in wanted.split('|'))
  clear = 'did not foresee' not in line and len(line) < 900
  return [] if good and clear else [f'{name}: {line}']


@pytest.mark.slow
def test_every_odd_input_is_one_clear_line(fake, tmp_path, capfd):
  table, source = rows(), tmp_path / 'in'
  assert len(table) >= 100 and len({row[0] for row in table}) == len(table)
  source.mkdir()
  for name, write, _ in table:
    write(source / name)
  np.save(source / 'control.npy', speckle(seed=5))
  paths = [source / 'control.npy', *(source / name for name, *_ in table)]
  capfd.readouterr()
  status = main(['segment', '--checkpoint=x', f'--out={tmp_path / "out"}', *map(str, paths)])
  printed = capfd.readouterr()
  assert status == 1
  assert printed.err == '' and 'Traceback' not in printed.out
  lines = printed.out.splitlines()
  results = {}
  for file in (tmp_path / 'out').rglob('result.json'):
    result = json.loads(file.read_text())
    results.setdefault(result['source'], []).append(result)
  problems = []
  for name, _, wanted in table:
    result = next(iter(results.get(name, [])), None)
    problems += problems_of(name, source / name, wanted, lines, result)
  assert not problems, '\n'.join(problems)
  good = sum(isinstance(wanted, set) for *_, wanted in table) + 1
  assert lines[-1].startswith(f'{good} of {len(paths)} clips segmented')
  # The first clip came out as it does alone.
  assert main(['segment', '--checkpoint=x', f'--out={tmp_path / "alone"}', str(paths[0])]) == 0
  for file in (tmp_path / 'alone' / 'control').iterdir():
    assert file.read_bytes() == (tmp_path / 'out' / 'control' / file.name).read_bytes(), file.name


@pytest.mark.parametrize('video', [speckle(1, 64, 64), speckle(2, 65, 67), speckle(4, 300, 161)])
def test_odd_sizes_leave_every_file(video, monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(inference, 'load', lambda *_: Thresholder())
  np.save(tmp_path / 'clip.npy', video)
  assert main(['segment', '--checkpoint=x', f'--out={tmp_path}', str(tmp_path / 'clip.npy')]) == 0
  written = {file.name for file in (tmp_path / 'clip').iterdir()}
  assert written == set(outputs.NAMES) - {'masks.dcm', 'probability.nii.gz'}
  with contextlib.closing(Image.open(tmp_path / 'clip' / 'overlay.gif')) as gif:
    assert 1 <= gif.n_frames <= len(video)
  capsys.readouterr()
