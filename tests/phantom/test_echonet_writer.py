"""The EchoNet writer: layout, exact truth, tracings, continuing, traps."""

import csv
import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet, resize
from echoforge_jax.formats.echonet_clip import tracing_mask
from echoforge_jax.phantom import echonet_traps, echonet_writer
from echoforge_jax.phantom.echonet_writer import write_echonet
from tests.phantom import beating

# Rendering a patient takes longer than compiling for it.
pytestmark = pytest.mark.optimized


def _write(out, num_patients=4, seed=7, generate=beating.generate, **kwargs):
  kwargs.setdefault('config', beating.Config())
  return write_echonet(
    out, num_patients=num_patients, seed=seed, generate=generate, progress=False, **kwargs
  )


def _table(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def _files(root):
  return {
    str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in root.rglob('*')
    if path.is_file()
  }


def _dice(a, b):
  return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  root = tmp_path_factory.mktemp('echonet') / 'raw'
  return root, _write(root)


@pytest.mark.slow
def test_layout_is_the_providers(written):
  root, truth = written
  names = list(truth['patients'])
  assert all(re.fullmatch('0X[0-9A-F]{16}', name) for name in names)
  assert sorted(_files(root)) == sorted(
    ['FileList.csv', 'VolumeTracings.csv', 'phantom.json']
    + [f'Videos/{name}.avi' for name in names]
  )
  rows = _table(root / 'FileList.csv')
  assert list(rows[0]) == [
    'FileName',
    'EF',
    'ESV',
    'EDV',
    'FrameHeight',
    'FrameWidth',
    'FPS',
    'NumberOfFrames',
    'Split',
  ]
  assert sorted(row['FileName'] for row in rows) == names
  assert {row['Split'] for row in rows} == {'TRAIN', 'VAL', 'TEST'}
  traced = _table(root / 'VolumeTracings.csv')
  assert list(traced[0]) == ['FileName', 'X1', 'Y1', 'X2', 'Y2', 'Frame']
  assert {row['FileName'] for row in traced} == {f'{n}.avi' for n in names}
  counts = {
    (name, frame): len(rows)
    for name, frames in echonet.Dataset(root).tracings.items()
    for frame, rows in frames.items()
  }
  assert len(counts) == 2 * len(names) and set(counts.values()) == {21}


def test_videos_are_mjpg_of_the_providers_size(written):
  import av

  root, truth = written
  for name, facts in truth['patients'].items():
    with av.open(str(root / 'Videos' / f'{name}.avi')) as container:
      stream = container.streams.video[0]
      assert stream.codec_context.name == 'mjpeg'
      assert (stream.height, stream.width) == (112, 112)
      assert round(float(stream.average_rate)) == facts['fps'] == 48
      frames = [f.to_ndarray(format='rgb24') for f in container.decode(stream)]
    assert len(frames) == facts['num_frames']
    channels = np.stack(frames).astype(int)
    assert np.ptp(channels, axis=-1).max() <= 2  # Gray, but for rounding.


def test_truth_is_exact_and_in_the_tables(written):
  root, truth = written
  assert json.loads((root / 'phantom.json').read_text()) == truth
  assert truth['layout'] == 'echonet' and truth['planted'] == {}
  rows = echonet.Dataset(root).files
  for index in range(4):
    made = beating.generate(7, index + 1)
    name = echonet_writer.clip_id(7, index)
    facts, row = truth['patients'][name], rows[name]
    for key in ('ef_percent', 'edv_ml', 'esv_ml'):
      assert facts[key] == getattr(made, key)
      assert getattr(row, key) == pytest.approx(facts[key], abs=1e-9)
    assert (row.num_frames, row.split, row.fps) == (
      facts['num_frames'],
      facts['split'],
      facts['fps'],
    )


def test_clip_holds_the_rendered_pixels_and_the_true_phases(written):
  root, truth = written
  for index in range(4):
    made = beating.generate(7, index + 1).clips['4CH']
    name = echonet_writer.clip_id(7, index)
    clip = echonet.read_clip(root, name)
    facts = truth['patients'][name]
    assert (clip.ed, clip.es) == (facts['ed'], facts['es'])
    assert clip.es - clip.ed == beating.SYSTOLE
    # A recording starts anywhere: the leading part of a beat is cut off.
    first = len(made.frames) - len(clip.frames)
    assert 0 <= first < beating.PERIOD
    assert (first + clip.ed) % beating.PERIOD == 0
    wanted = resize.squeeze_frames(made.frames[first:], 112).astype(int)
    sector = resize.squeeze_frames(made.frames, 112).max(axis=0) > 0
    error = np.abs(clip.frames.astype(int) - wanted)[:, sector]
    assert error.mean() < 2.5 and error.max() <= 20
    shifted = np.abs(clip.frames[1:].astype(int) - wanted[:-1])[:, sector]
    assert shifted.mean() > 2 * error.mean()
    outside = clip.frames[:, ~sector]
    assert outside.max() <= 20 and 3 < outside.mean() < 7


@pytest.mark.parametrize('slope', [0.0, 0.3, 0.6])
@pytest.mark.parametrize('index', [1, 2, 3])
def test_the_providers_rule_gives_the_mask_back(slope, index):
  clip = beating.generate(1, index, beating.Config(slope=slope)).clips['4CH']
  for mask in resize.squeeze_masks(clip.masks[[clip.ed, clip.es]], 112) > 0:
    rows = echonet_writer.trace(mask)
    assert rows.shape == (21, 4)
    assert _dice(tracing_mask(rows, mask.shape) > 0, mask) >= 0.97
    axis = rows[0, 2:] - rows[0, :2]
    chords = rows[1:, 2:] - rows[1:, :2]
    across = chords @ axis / np.linalg.norm(axis)
    np.testing.assert_allclose(across, 0, atol=1e-2)
    assert (chords[:, 0] > 0).all()  # First ends on the left.
    middles = (rows[1:, :2] + rows[1:, 2:]) / 2
    assert (np.diff(middles @ axis) > 0).all()  # From the apex to the base.


@pytest.mark.slow
def test_the_providers_rule_gives_phantoms_masks_back():
  from echoforge_jax.phantom.patient import generate_patient

  worst = 1.0
  for index in range(1, 7):
    clip = generate_patient(5, index, beats=2, images=False).clips['4CH']
    masks = resize.squeeze_masks(clip.masks[[clip.ed, clip.es]], 112)
    for mask in masks == LABELS['lv']:
      again = tracing_mask(echonet_writer.trace(mask), mask.shape) > 0
      worst = min(worst, _dice(again, mask))
  assert worst >= 0.97


def test_nothing_to_trace():
  with pytest.raises(ValueError, match='no cavity'):
    echonet_writer.trace(np.zeros((112, 112), bool))


@pytest.mark.slow
def test_same_arguments_same_files(written, tmp_path):
  root, truth = written
  assert _write(tmp_path / 'again') == truth
  assert _files(tmp_path / 'again') == _files(root)
  _write(tmp_path / 'other', seed=8)
  assert not set(_files(tmp_path / 'other')) & {
    name for name in _files(root) if name.endswith('.avi')
  }


@pytest.mark.slow
def test_workers_write_the_same_files(written, tmp_path):
  _write(tmp_path / 'raw', num_workers=2)
  assert _files(tmp_path / 'raw') == _files(written[0])


def test_interrupted_run_continues(written, tmp_path):
  calls = []

  def counted(seed, index, config):
    calls.append(index)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return beating.generate(seed, index, config)

  with pytest.raises(KeyboardInterrupt):
    _write(tmp_path, generate=counted)
  assert not (tmp_path / 'FileList.csv').exists()
  videos = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.avi')}
  assert len(videos) == 2
  _write(tmp_path, generate=counted)
  assert calls == [1, 2, 3, 3, 4]
  assert all(path.stat().st_mtime_ns == time for path, time in videos.items())
  assert _files(tmp_path) == _files(written[0])

  def never(*_):
    raise AssertionError('a finished patient was made again')

  _write(tmp_path, generate=never)
  assert _files(tmp_path) == _files(written[0])


def test_missing_video_is_made_again(written, tmp_path):
  _write(tmp_path)
  next((tmp_path / 'Videos').glob('*.avi')).unlink()
  _write(tmp_path)
  assert _files(tmp_path) == _files(written[0])


@pytest.mark.parametrize(
  'count, sizes',
  [
    (1, (1, 0, 0)),
    (2, (1, 0, 1)),
    (3, (1, 1, 1)),
    (20, (14, 3, 3)),
    (100, (74, 13, 13)),
    (9999, (7442, 1284, 1273)),
  ],
)
def test_split_has_the_official_proportions(count, sizes):
  splits = echonet_writer.split_clips(count, seed=1)
  assert tuple(splits.count(s) for s in ('TRAIN', 'VAL', 'TEST')) == sizes
  assert splits == echonet_writer.split_clips(count, seed=1)


def test_chosen_number_of_test_clips():
  splits = echonet_writer.split_clips(20, seed=1, num_test=8)
  assert (splits.count('TEST'), splits.count('VAL')) == (8, 3)
  for wrong in (0, 17):
    with pytest.raises(InputError, match='num_test is'):
      echonet_writer.split_clips(20, seed=1, num_test=wrong)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'num_patients': 0}, 'num_patients is 0'),
    ({'seed': -1}, 'seed is -1'),
    ({'num_test': 4}, 'num_test is 4'),
    ({'traps': ['gremlin']}, 'gremlin.*no_tracing'),
    ({'traps': list(echonet_traps.TRAPS)}, 'fewer traps than patients'),
  ],
)
def test_misuse_writes_nothing(tmp_path, kwargs, message):
  with pytest.raises(InputError, match=message):
    _write(tmp_path / 'x', **kwargs)
  assert not (tmp_path / 'x').exists()


def test_another_phantom_is_not_overwritten(written, tmp_path):
  root, _ = written
  before = _files(root)
  for kwargs in (
    {'seed': 1},
    {'num_patients': 5},
    {'traps': ['blank']},
    {'num_test': 2},
    {'config': beating.Config(slope=0.1)},
  ):
    with pytest.raises(InputError, match='phantom.json.*another'):
      _write(root, **kwargs)
  assert _files(root) == before
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(InputError, match='holds files'):
    _write(tmp_path)


@pytest.mark.slow
def test_traps_take_a_clip_each_and_change_no_other(tmp_path):
  count = len(echonet_traps.TRAPS) + 3
  kwargs = {'num_patients': count, 'config': beating.Config(height=100, width=112)}
  clean = _write(tmp_path / 'clean', **kwargs)
  truth = _write(tmp_path / 'traps', traps=list(echonet_traps.TRAPS), **kwargs)
  planted = truth['planted']
  assert set(planted) == set(echonet_traps.TRAPS)
  assert len(set(planted.values())) == len(planted)
  assert json.loads((tmp_path / 'traps/phantom.json').read_text())['planted'] == planted
  # What truth and pixels of the other clips are does not change.
  assert truth['patients'] == clean['patients']
  whole, broken = (_files(tmp_path / part) for part in ('clean', 'traps'))
  changed = set(planted.values()) | set(echonet_traps.choose(clean, list(planted)).values())
  for name in set(clean['patients']) - changed:
    assert whole[f'Videos/{name}.avi'] == broken[f'Videos/{name}.avi']
  rows = [
    {tuple(row.values()) for row in _table(tmp_path / part / 'FileList.csv')}
    for part in ('clean', 'traps')
  ]
  assert {row[0] for row in rows[0] ^ rows[1]} <= changed


@pytest.mark.slow
@pytest.mark.parametrize('trap', sorted(echonet_traps.TRAPS))
def test_interrupted_planting_continues(tmp_path, trap):
  kwargs = dict(num_patients=3, traps=[trap], config=beating.Config(height=100, width=112))
  _write(tmp_path / 'whole', **kwargs)
  shutil.copytree(tmp_path / 'whole', tmp_path / 'out')
  # The last entry before phantom.json tells what was planted.
  path = tmp_path / 'out' / 'phantom.json'
  truth = json.loads(path.read_text())
  assert list(truth.pop('planted')) == [trap]
  path.write_text(json.dumps(truth | {'planting': True}))
  _write(tmp_path / 'out', **kwargs)
  assert _files(tmp_path / 'out') == _files(tmp_path / 'whole')


@pytest.mark.slow
def test_a_real_patient(tmp_path):
  from echoforge_jax.phantom.patient import generate_patient

  truth = write_echonet(tmp_path, num_patients=1, seed=5, progress=False)
  ((name, facts),) = truth['patients'].items()
  patient = generate_patient(5, 1, beats=2, views=('4CH',))
  assert facts['ef_percent'] == patient.ef_percent
  assert list(patient.clips) == ['4CH']
  clip = echonet.read_clip(tmp_path, name)
  assert 30 <= clip.fps <= 60 and clip.es - clip.ed + 1 >= 10
  period = len(patient.clips['4CH'].frames) / 2
  assert period <= len(clip.frames) <= 2 * period
  areas = (patient.clips['4CH'].masks == LABELS['lv']).sum(axis=(1, 2))
  first = len(areas) - len(clip.frames)
  assert areas[first + clip.ed] >= 0.97 * areas.max()
  assert areas[first + clip.es] <= 1.03 * areas.min()
