"""Many inputs: found in folders, read ahead, none touched by another."""

import pathlib
import threading
import time

import numpy as np
from PIL import Image
from pydicom import examples
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.formats import color, images
from echoforge_jax.formats import sector as sectors
from echoforge_jax.formats.readers import read_any, stem_of
from echoforge_jax.inference import batch, checks, inputs
from tests.inference.clips import noise, segmentation

REAL = pathlib.Path(examples.get_path('ybr_color'))


def clip(seed, frames=4):
  return noise(frames, (40, 52), seed)


@pytest.fixture
def study(tmp_path):
  """Two patients; clips, a folder of frames, and what is neither."""
  root = tmp_path / 'study'
  for name in ('p10', 'p2', 'p2/frames', 'p2/.hidden', 'p2/none'):
    (root / name).mkdir(parents=True)
  np.save(root / 'p10' / 'clip.npy', clip(1))
  np.save(root / 'p2' / 'clip.npy', clip(2))
  np.savez(root / 'p2' / 'Clip.npz', frames=clip(3))
  (root / 'p2' / 'IM1').write_bytes(REAL.read_bytes())
  (root / 'p2' / 'DICOMDIR').write_bytes(REAL.read_bytes())
  (root / 'p2' / 'report.txt').write_text('words')
  np.save(root / 'p2' / '.hidden' / 'clip.npy', clip(4))
  Image.fromarray(clip(5)[0]).save(root / 'p2' / 'shot.png')
  for index in (1, 2, 10):
    Image.fromarray(np.full((40, 52), 10 * index, np.uint8)).save(
      root / 'p2' / 'frames' / f'{index}.png'
    )
  return root


def test_folders_of_clips(study):
  found, failures = inputs.expand([study], recursive=True)
  assert not failures
  assert [(str(path.relative_to(study)), name) for path, name in found] == [
    ('p2/Clip.npz', 'p2/Clip'),
    ('p2/IM1', 'p2/IM1'),
    ('p2/clip.npy', 'p2/clip-2'),
    ('p2/frames', 'p2/frames'),
    ('p10/clip.npy', 'p10/clip'),
  ]
  found, _ = inputs.expand([study, study / 'p10' / 'clip.npy'], True, skip=study / 'p2')
  assert [name for _, name in found] == ['p10/clip', 'clip']


def test_folders_without_recursive(study):
  found, failures = inputs.expand(
    [study / 'p2' / 'frames', study, study / 'p2', study / 'p2' / 'none', study / 'gone.avi']
  )
  assert [name for _, name in found] == ['frames', 'gone']
  said = list(failures.values())
  assert len(said) == 3 and all('--recursive' in line for line in said)
  assert 'of 3 clips' in said[1] and 'without images' in said[2]
  _, failures = inputs.expand([study / 'p2' / 'none'], recursive=True)
  assert 'no clip in this folder' in str(failures)


def test_frames_come_in_natural_order(study):
  frames = read_any(study / 'p2' / 'frames').frames
  assert frames[:, 0, 0].tolist() == [10, 20, 100]
  assert [path.name for path in images.image_files(study / 'p2' / 'frames')] == [
    '1.png',
    '2.png',
    '10.png',
  ]


def test_names_never_leave_the_results(monkeypatch, study):
  monkeypatch.chdir(study / 'p2' / 'frames')
  assert stem_of('.') == 'frames' and stem_of('..') == 'p2'
  assert stem_of('/') == 'clip'


@pytest.mark.slow
def test_results_do_not_depend_on_the_other_clips(segmenter, study, tmp_path):
  clips = [study / 'p2' / 'clip.npy', study / 'p10' / 'clip.npy', study / 'p2' / 'frames']
  lines = []
  together, failures = batch.segment_files(
    segmenter, [clips[1], tmp_path / 'none.avi', *clips], tmp_path / 'all', report=lines.append
  )
  assert len(failures) == 1 and len(lines) == 5
  assert list(together) == ['clip', 'clip-2', 'clip-3', 'frames']
  for path, name in zip(clips, ['clip-2', 'clip-3', 'frames']):
    alone = tmp_path / 'alone' / name
    batch.segment_file(path, segmenter, out_dir=alone)
    files = sorted(file.name for file in alone.iterdir())
    assert files == sorted(file.name for file in (tmp_path / 'all' / name).iterdir())
    for file in files:
      assert (alone / file).read_bytes() == (tmp_path / 'all' / name / file).read_bytes(), (
        name,
        file,
      )


@pytest.mark.slow
def test_a_failure_leaves_no_earlier_result(segmenter, study, tmp_path):
  path = study / 'p2' / 'clip.npy'
  batch.segment_files(segmenter, [path], tmp_path / 'out', report=str)
  assert (tmp_path / 'out' / 'clip' / 'result.json').exists()
  path.write_bytes(b'words')
  _, failures = batch.segment_files(segmenter, [path], tmp_path / 'out', report=str)
  assert failures and not list((tmp_path / 'out' / 'clip').iterdir())


def test_what_nobody_foresaw_is_one_line_too(segmenter, study, tmp_path):
  class Broken:
    locate = segmenter.locate

    def segment_clip(self, video, *_, **__):
      if len(video) == 4:
        raise ZeroDivisionError('a\nb')
      return segmentation(np.zeros(video.shape, np.uint8))

  np.save(tmp_path / 'other.npy', clip(6, frames=5))
  results, failures = batch.segment_files(
    Broken(), [study / 'p2' / 'clip.npy', tmp_path / 'other.npy'], tmp_path / 'out', report=str
  )
  assert list(results) == ['other']
  [message] = failures.values()
  assert 'please report' in message and 'ZeroDivisionError: a b' in message


@pytest.mark.parametrize('large', [False, True])
def test_reading_ahead(large):
  class Ready:
    def __init__(self):
      self.clip = self
      self.frames = self
      self.nbytes = 2**31 if large else 1

  started, alive = [], []

  def prepare(path):
    started.append(path)
    if path == 'bad':
      raise InputError('bad')
    alive.append(threading.current_thread() is not threading.main_thread())
    return Ready()

  taken = []
  for path, ready in zip('a bad c'.split(), batch._read_ahead(prepare, ['a', 'bad', 'c'])):
    deadline = time.monotonic() + 5
    if not large:  # The next one is read meanwhile, and never one more.
      while len(started) < min(len(taken) + 2, 3) and (time.monotonic() < deadline):
        time.sleep(0.005)
      assert len(started) == min(len(taken) + 2, 3)
    elif path != 'bad':
      assert len(started) == len(taken) + 1
    try:
      ready()
      taken.append(path)
    except InputError:
      taken.append('refused')
  assert taken == ['a', 'refused', 'c'] and all(alive)


def paint(kind):
  """One frame uint8 [120, 160, 3]: speckle in gray, with color or a tint."""
  gray = np.random.default_rng(0).integers(20, 200, (120, 160, 1))
  frame = np.repeat(gray, 3, -1)
  if kind == 'flow':
    frame[40:60, 40:60], frame[60:80, 40:60] = (210, 50, 10), (10, 70, 220)
  elif kind == 'one way':
    frame[40:60, 40:60] = (210, 80, 10)
  elif kind == 'tissue':
    frame[:60], frame[60:] = (180, 30, 20), (20, 40, 190)
  elif kind == 'line':
    frame[70:72] = (40, 240, 60)
  elif kind == 'amber':
    frame = frame * (1, 0.7, 0.2)
  elif kind == 'blue':
    frame = np.minimum(frame * (0.5, 0.8, 1.6), 255)
  return frame.astype(np.uint8)


@pytest.mark.parametrize(
  'kind,painted',
  [
    ('gray', False),
    ('flow', True),
    ('one way', True),
    ('tissue', True),
    ('line', False),
    ('amber', False),
    ('blue', False),
  ],
)
def test_color_doppler_and_tints(kind, painted):
  seen = color.ColorSeen((120, 160))
  seen.add(paint(kind))
  share = color.painted_share(seen, np.ones((120, 160), bool))
  assert (share > 0) == painted
  if kind == 'flow':
    assert share == pytest.approx(800 / (120 * 160), rel=0.05)
  assert color.painted_share(None, np.ones((120, 160), bool)) == 0


def test_a_real_power_doppler_image_is_refused():
  path = examples.get_path('rgb_color')  # A lymph node, in pydicom's wheel.
  still = read_any(path)
  assert still.flags == ('still_image',)
  with pytest.raises(InputError, match='found color Doppler over 7 %'):
    checks.check_content(path, still, sectors.find_sector(still.frames))
