"""Prepared data: exact, resumable, byte-identical, never half complete."""

import fcntl
import hashlib
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from echoforge_jax.clip import Clip
from echoforge_jax.commands import prepare as prepare_command
from echoforge_jax.data import datasets as raw
from echoforge_jax.data.prepare import prepare
from echoforge_jax.data.prepared import load_split
from echoforge_jax.errors import InputError
from echoforge_jax.formats import camus, resize
from echoforge_jax.phantom.camus_writer import write_camus
from tests.phantom import ellipses

SPLITS = {'train': 4, 'validation': 1, 'test': 2}


def _ellipse(shape, center, radii):
  rows, cols = np.mgrid[: shape[0], : shape[1]]
  return (((rows - center[0]) / radii[0]) ** 2 + ((cols - center[1]) / radii[1]) ** 2) < 1


def make_clip(patient, view, shape=(66, 58), frames=7):
  rng = np.random.default_rng(abs(hash_int(patient + view)))
  masks = np.zeros((frames, *shape), np.uint8)
  for t, mask in enumerate(masks):
    shrink = 1 - 0.03 * t
    center = (shape[0] * 0.45, shape[1] * 0.5)
    outer = (shape[0] * 0.34, shape[1] * 0.27)
    mask[_ellipse(shape, (shape[0] * 0.85, center[1]), (shape[0] * 0.12, shape[1] * 0.2))] = 3
    mask[_ellipse(shape, center, outer)] = 2
    mask[_ellipse(shape, center, [0.72 * shrink * r for r in outer])] = 1
  images = rng.integers(20, 200, (frames, *shape), dtype=np.uint8)
  return Clip(
    patient=patient,
    view=view,
    frames=images,
    masks=masks,
    labeled=np.ones(frames, bool),
    ed=0,
    es=frames - 1,
    spacing_mm=np.array([0.3, 0.4], np.float32),
    fps=48.5,
    quality='Good',
    ef_percent=55.0,
    edv_ml=101.5,
    esv_ml=45.25,
  )


def hash_int(text):
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')


class Reader(raw.Reader):
  """Patients p00, p01, ... in the order of the splits; counts its reads."""

  def __init__(self, splits=SPLITS, stop_after=None, clip=make_clip):
    self.splits, self.clip, self.stop_after = splits, clip, stop_after
    self.reads = []

  def list_clips(self, split, scheme):
    first = 0
    for name, count in self.splits.items():
      if name == split:
        return [(f'p{i:02d}', view) for i in range(first, first + count) for view in ('2CH', '4CH')]
      first += count
    return []

  def read_clip(self, patient, view):
    if self.stop_after is not None and len(self.reads) == self.stop_after:
      raise KeyboardInterrupt
    self.reads.append((patient, view))
    return self.clip(patient, view)


def run(tmp_path, reader=None, out='data', size=32, **kwargs):
  """Prepares `reader`'s patients in shards of three clips."""
  raw_dir = tmp_path / 'raw'
  raw_dir.mkdir(exist_ok=True)
  (raw_dir / 'patients.txt').touch()
  reader = reader or Reader()
  reader.raw_dir = raw_dir
  return prepare('camus', raw_dir, tmp_path / out, size, reader=reader, clips_per_shard=3, **kwargs)


def hashes(folder):
  return {
    file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())
  }


def test_examples_hold_the_clips(tmp_path):
  prepared = run(tmp_path)
  assert prepared.counts == {'train': (4, 8, 56), 'validation': (1, 2, 14), 'test': (2, 4, 28)}
  source = load_split(tmp_path / 'data', 'camus', 'test')
  assert [(c['patient'], c['view']) for c in source.clips] == [
    ('p05', '2CH'),
    ('p05', '4CH'),
    ('p06', '2CH'),
    ('p06', '4CH'),
  ]
  for key, record in enumerate(source.clips):
    example = source[key]
    clip = make_clip(record['patient'], record['view'])
    assert (example['patient'], example['view']) == (clip.patient, clip.view)
    assert example['frames'].dtype == example['masks'].dtype == np.uint8
    np.testing.assert_array_equal(example['frames'], resize.squeeze_frames(clip.frames, 32))
    np.testing.assert_array_equal(example['masks'], resize.squeeze_masks(clip.masks, 32))
    np.testing.assert_array_equal(example['labeled'], clip.labeled)
    assert (example['ed'], example['es']) == (0, 6)
    assert tuple(example['native_size']) == (66, 58)
    np.testing.assert_array_equal(example['native_spacing_mm'], clip.spacing_mm)
    for name in ('fps', 'ef_percent', 'edv_ml', 'esv_ml', 'quality'):
      assert example[name] == getattr(clip, name)


def test_spacing_keeps_the_field_of_view():
  spacing = resize.squeezed_spacing(np.array([0.308, 0.154]), (600, 512), 256)
  assert spacing.dtype == np.float32
  np.testing.assert_allclose(spacing, [0.308 * 600 / 256, 0.154 * 512 / 256], rtol=1e-7)
  assert np.isnan(resize.squeezed_spacing(np.full(2, np.nan), (8, 9), 4)).all()


@pytest.mark.parametrize('shape', [(300, 260), (90, 70), (300, 70)])
def test_squeezed_masks_keep_every_area_and_the_outline(shape):
  """Back on the native grid the prepared truth is nearly the native truth."""
  size = 128
  masks = make_clip('p', '2CH', shape, frames=3).masks
  small = resize.squeeze_masks(masks, size)
  rows = (np.arange(shape[0]) + 0.5) * size / shape[0]
  cols = (np.arange(shape[1]) + 0.5) * size / shape[1]
  back = small[:, rows.astype(int)][:, :, cols.astype(int)]
  for label in (1, 2, 3):
    native, again = masks == label, back == label
    dice = 2 * (native & again).sum() / (native.sum() + again.sum())
    assert dice > 0.97
    share = (small == label).mean() / native.mean()
    assert share == pytest.approx(1, abs=0.01)


def test_squeezed_frames_keep_gray_levels_and_geometry():
  frames = np.zeros((1, 120, 80), np.uint8)
  frames[:, 30:60, 20:40] = 200
  small = resize.squeeze_frames(frames, 40)[0]
  expected = np.zeros((40, 40), np.uint8)
  expected[10:20, 10:20] = 200
  np.testing.assert_array_equal(small, expected)
  same = resize.squeeze_frames(small[None], 40)
  np.testing.assert_array_equal(same[0], small)


def test_repeated_preparation_gives_the_same_bytes(tmp_path):
  first = run(tmp_path, out='one')
  second = run(tmp_path, out='two')
  assert first.num_bytes == second.num_bytes > 0
  assert hashes(first.path) == hashes(second.path)
  shards = [name for name in hashes(first.path) if 'array_record' in name]
  assert len(shards) == 3 + 1 + 2


def test_complete_data_are_left_alone(tmp_path):
  first = run(tmp_path)
  before = {f: f.stat().st_mtime_ns for f in first.path.iterdir()}
  reader = Reader()
  again = run(tmp_path, reader)
  assert again.reused and not first.reused
  assert not reader.reads
  assert again.counts == first.counts
  assert before == {f: f.stat().st_mtime_ns for f in first.path.iterdir()}


def test_interrupted_preparation_resumes_to_the_same_bytes(tmp_path):
  whole = run(tmp_path, out='whole')
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, Reader(stop_after=11))
  with pytest.raises(InputError, match='no prepared data'):
    load_split(tmp_path / 'data', 'camus', 'train', 32)
  reader = Reader()
  resumed = run(tmp_path, reader)
  # Of shards of 3, 3, 2, 2, 3 and 1 clips four were complete.
  assert len(reader.reads) == 14 - 10
  assert hashes(resumed.path) == hashes(whole.path)
  left = {f.name for f in (tmp_path / 'data').rglob('*') if f.is_dir()}
  assert left == {'camus', 'official_32', '1.0.0'}


def test_excluding_a_clip_keeps_the_other_shards(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, Reader(stop_after=11))
  reader = Reader()
  prepared = run(tmp_path, reader, excluded=['p00'])
  # One clip of the first shard, and what was missing.
  assert len(reader.reads) == 1 + 4
  assert prepared.counts['train'] == (3, 6, 42)
  fresh = run(tmp_path, out='fresh', excluded=['p00'])
  assert hashes(prepared.path) == hashes(fresh.path)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data import test_prepare

class Killed(test_prepare.Reader):
  def read_clip(self, *clip):
    if len(self.reads) == int(sys.argv[2]):
      os.kill(os.getpid(), signal.SIGKILL)
    return super().read_clip(*clip)

test_prepare.run(Path(sys.argv[1]), Killed())
"""


@pytest.mark.slow
def test_killed_again_and_again_ends_in_the_same_bytes(tmp_path):
  whole = run(tmp_path, out='whole')
  for reads in (2, 6, 5):
    done = subprocess.run(
      [sys.executable, '-c', _KILLED, str(tmp_path), str(reads)],
      cwd=pathlib.Path(__file__).parents[2],
      timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match='no prepared data'):
      load_split(tmp_path / 'data', 'camus', 'train', 32)
  reader = Reader()
  assert hashes(run(tmp_path, reader).path) == hashes(whole.path)
  assert len(reader.reads) < 14


def test_killed_while_finishing_ends_in_the_same_bytes(tmp_path):
  """A kill may come after all shards, amid metadata, before the rename."""
  whole = run(tmp_path, out='whole')
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, Reader(stop_after=13))
  (folder,) = (tmp_path / 'data/camus/.official_32.partial').glob('*-3')
  (folder / 'metadata.json').write_text('{}')
  (folder / 'camus-test.array_record-00001-of-00002.partial').write_text('x')
  assert hashes(run(tmp_path).path) == hashes(whole.path)


def test_changed_raw_data_are_refused_or_replaced(tmp_path):
  first = run(tmp_path)
  (tmp_path / 'raw/patients.txt').write_text('p00\n')
  with pytest.raises(InputError, match='overwrite'):
    run(tmp_path)
  assert hashes(first.path)
  reader = Reader(clip=lambda p, v: make_clip(p, v, frames=5))
  second = run(tmp_path, reader, overwrite=True)
  assert second.counts['train'] == (4, 8, 40)
  assert run(tmp_path).reused


def test_fingerprint_follows_contents_not_place_or_time(tmp_path):
  big = np.random.default_rng(0).bytes(200_000)
  for name in ('a', 'b'):
    folder = tmp_path / name / 'sub'
    folder.mkdir(parents=True)
    (folder / 'x.nii.gz').write_bytes(big)
    (folder / 'Info.cfg').write_text('ED: 1\n')
  (tmp_path / 'b/notes.md').write_text('not raw data')
  assert raw.fingerprint(tmp_path / 'b') != raw.fingerprint(tmp_path / 'a')  # The notes count.
  reference = raw.fingerprint(tmp_path / 'a', raw.SUFFIXES)
  assert raw.fingerprint(tmp_path / 'b', raw.SUFFIXES) == reference
  (tmp_path / 'a/prepared').mkdir()
  (tmp_path / 'a/prepared/list.txt').write_text('not raw data')
  assert raw.fingerprint(tmp_path / 'a', raw.SUFFIXES) != reference
  assert raw.fingerprint(tmp_path / 'a', raw.SUFFIXES, skip=tmp_path / 'a/prepared') == reference
  (tmp_path / 'b/sub/Info.cfg').write_text('ED: 2\n')
  assert raw.fingerprint(tmp_path / 'b', raw.SUFFIXES) != reference
  (tmp_path / 'b/sub/Info.cfg').write_text('ED: 1\n')
  (tmp_path / 'b/sub/x.nii.gz').write_bytes(big[:-1] + b'\0')
  assert raw.fingerprint(tmp_path / 'b', raw.SUFFIXES) != reference


@pytest.mark.parametrize(
  'kwargs, words',
  [
    (dict(size=8), 'image_size'),
    (dict(split_scheme='mine'), 'split_scheme'),
    (dict(reader=Reader({'train': 0, 'test': 1})), 'no patient'),
  ],
)
def test_misuse_is_named(tmp_path, kwargs, words):
  with pytest.raises(InputError, match=words):
    run(tmp_path, **kwargs)


def test_patient_in_two_splits_is_refused(tmp_path):
  reader = Reader()
  reader.list_clips = lambda *_: [('p00', '2CH')]
  with pytest.raises(InputError, match='p00 is in the splits'):
    run(tmp_path, reader)
  reader.list_clips = lambda *_: [('p00', '2CH')] * 2
  with pytest.raises(InputError, match='twice'):
    run(tmp_path, reader)


def test_unreadable_clip_and_folder_are_named(tmp_path):
  reader = Reader()
  reader.read_clip = lambda *_: (_ for _ in ()).throw(OSError('bad header'))
  with pytest.raises(InputError, match='p00 2CH .bad header'):
    run(tmp_path, reader)
  with pytest.raises(InputError, match='no such folder'):
    prepare('camus', tmp_path / 'none', tmp_path)
  with pytest.raises(InputError, match='wanted one of'):
    prepare('cmaus', tmp_path, tmp_path)
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match='cannot write'):
    run(tmp_path, out='file')


def test_second_preparation_at_the_same_time_is_refused(tmp_path):
  partial = tmp_path / 'data/camus/.official_32.partial'
  partial.mkdir(parents=True)
  with open(partial / 'lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InputError, match='running'):
      run(tmp_path)


def test_load_split_names_what_is_missing(tmp_path):
  run(tmp_path, Reader({'train': 2, 'validation': 0, 'test': 1}))
  data = tmp_path / 'data'
  with pytest.raises(InputError, match='wanted one of'):
    load_split(data, 'camus', 'training')
  with pytest.raises(InputError, match='no clip'):
    load_split(data, 'camus', 'validation')
  with pytest.raises(InputError, match='--image_size=64'):
    load_split(data, 'camus', 'train', 64)
  with pytest.raises(InputError, match='echoforge prepare'):
    load_split(data, 'camus', 'train', split_scheme='memsam')
  run(tmp_path, size=48)
  with pytest.raises(InputError, match=r'\[32, 48\]'):
    load_split(data, 'camus', 'train')
  assert load_split(data, 'camus', 'train', 48).image_size == 48


def open_reader(raw_dir):
  return Reader()


def test_command_prints_splits(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(raw.DATASETS, 'camus', f'{__name__}:open_reader')
  argv = [
    f'--raw={tmp_path}',
    f'--data_dir={tmp_path / "data"}',
    '--dataset=camus',
    '--image_size=32',
  ]
  assert prepare_command.main(argv) == 0
  out = capsys.readouterr().out
  assert 'written' in out
  assert 'train 4 8 56' in ' '.join(out.split())
  assert prepare_command.main(argv) == 0
  assert 'already complete' in capsys.readouterr().out
  with pytest.raises(SystemExit) as error:
    prepare_command.main(['--raw=x'])
  assert error.value.code == 2


@pytest.fixture(scope='module')
def camus_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('camus')
  write_camus(
    root,
    num_patients=10,
    seed=3,
    progress=False,
    config=ellipses.Config(),
    generate=ellipses.generate,
  )
  return root


@pytest.mark.parametrize('scheme', camus.SCHEMES)
def test_camus_files_become_examples(camus_dir, tmp_path, scheme):
  prepared = prepare('camus', camus_dir, tmp_path, 32, split_scheme=scheme)
  assert sum(patients for patients, _, _ in prepared.counts.values()) == 10
  for split in prepared.counts:
    source = load_split(tmp_path, 'camus', split, split_scheme=scheme)
    names = list(dict.fromkeys(clip['patient'] for clip in source.clips))
    assert source.synthetic is True
    assert names == camus.read_split(camus_dir, split, scheme)
    example = source[len(source) - 1]
    clip = camus.read_clip(camus_dir, names[-1], '4CH')
    np.testing.assert_array_equal(example['frames'], resize.squeeze_frames(clip.frames, 32))
    np.testing.assert_allclose(
      example['spacing_mm'], clip.spacing_mm * np.array(clip.frames.shape[1:]) / 32, rtol=1e-6
    )
    assert example['quality'] == clip.quality
    assert example['ef_percent'] == np.float32(clip.ef_percent)


def test_broken_camus_file_is_named(camus_dir, tmp_path):
  volume = next(camus_dir.rglob('*0002_4CH_half_sequence.nii.gz'))
  whole = volume.read_bytes()
  volume.write_bytes(whole[: len(whole) // 2])
  try:
    with pytest.raises(InputError, match=volume.name):
      prepare('camus', camus_dir, tmp_path, 32)
  finally:
    volume.write_bytes(whole)
  assert prepare('camus', camus_dir, tmp_path, 32).counts
