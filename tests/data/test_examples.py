"""Examples for the device, kept clips, and workers beside a running JAX."""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE, Clip
from echoforge_jax.data import datasets as raw
from echoforge_jax.data import pipeline, prepared, training_clips
from echoforge_jax.data import prepare as builder
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.errors import InputError

SIZE, T = 24, 5
PATIENTS = 6
STILL = dict(AugmentConfig.none().__dict__, temporal_jitter=0.4, reversal=0.5)


def read_clip(raw_dir, patient, view):
  rng = np.random.default_rng([int(patient[1:]), view == '4CH'])
  frames = rng.integers(0, 256, (9, SIZE, SIZE), np.uint8)
  return Clip(
    patient=patient,
    view=view,
    frames=frames,
    masks=(frames > 128).astype(np.uint8),
    ed=0,
    es=8,
    labeled=np.arange(9) % 4 == 0,
    spacing_mm=np.array([0.5, 0.7], np.float32),
    fps=50.0,
  )


@pytest.fixture(scope='module')
def defaults(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')

  def list_clips(raw_dir, split, scheme):
    names = {
      'train': range(PATIENTS),
      'validation': [PATIENTS],
      'test': [PATIENTS + 1],
    }[split]
    return [(f'p{n}', view) for n in names for view in ('2CH', '4CH')]

  builder.prepare(
    'camus',
    root,
    root / 'data',
    SIZE,
    reader=raw.RawReader(list_clips, read_clip),
  )
  return dict(
    data_dir=root / 'data',
    dataset='camus',
    image_size=SIZE,
    num_frames=T,
    batch_size=4,
    unlabeled_batch_size=2,
    seed=7,
    label_fraction=0.5,
    augmentation=STILL,
  )


def take(defaults, count=6, **kwargs):
  iterator = pipeline.make_train_iterator(**defaults | kwargs)
  try:
    return list(itertools.islice(iterator, count))
  finally:
    iterator.close()


def assert_same(batches, others):
  assert len(batches) == len(others) > 0
  for batch, other in zip(batches, others):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize('supervision', ['sparse', 'full'])
def test_the_device_gets_what_the_host_would_augment(defaults, supervision):
  kwargs = dict(supervision=supervision)
  host, device = (
    take(defaults, augment_on=place, **kwargs) for place in ('host', 'device')
  )
  count = 2 if supervision == 'sparse' else T
  assert {k: (v.shape, v.dtype) for k, v in device[0].items()} == {
    'video': ((6, T, SIZE, SIZE, 1), np.uint8),
    'masks': ((6, count, SIZE, SIZE), np.uint8),
    'labeled': ((6, T), np.bool_),
    'spacing_mm': ((6, 2), np.float32),
    'seed': ((6,), np.uint32),
  }
  for one, other in zip(host, device):
    np.testing.assert_array_equal(one['video_weak'], other['video'])
    for name in ('labeled', 'spacing_mm'):
      np.testing.assert_array_equal(one[name], other[name])
    masks = np.full((6, T, SIZE, SIZE), IGNORE, np.uint8)
    masks[:, [0, -1] if count == 2 else slice(None)] = other['masks']
    masks[~one['labeled']] = IGNORE
    np.testing.assert_array_equal(one['masks'], masks)
  # Truth that is hidden does not leave the host.
  assert not device[0]['masks'][~device[0]['labeled'].any(1)].any()
  seeds = np.concatenate([batch['seed'] for batch in device])
  assert len(set(seeds.tolist())) == len(seeds)


def test_seeds_do_not_depend_on_processes_threads_or_resuming(defaults):
  whole = take(defaults, augment_on='device')
  assert_same(whole, take(defaults, augment_on='device', num_threads=3))
  parts = [
    take(
      defaults,
      augment_on='device',
      batch_size=2,
      unlabeled_batch_size=1,
      process_index=i,
      process_count=2,
    )
    for i in (0, 1)
  ]
  for step, batch in enumerate(whole):
    for name, value in batch.items():
      np.testing.assert_array_equal(
        value, np.concatenate([part[step][name] for part in parts])
      )
  # Closed: its threads would go on reading, and the next test counts reads.
  with contextlib.closing(
    pipeline.make_train_iterator(**defaults, augment_on='device')
  ) as iterator:
    iterator.set_state({'batches': 3})
    assert_same(whole[3:], list(itertools.islice(iterator, 3)))


@pytest.mark.parametrize('augment_on', ['host', 'device'])
def test_kept_clips_are_read_once(defaults, augment_on, monkeypatch):
  read, original = [], prepared.ClipSource.__getitem__
  monkeypatch.setattr(
    prepared.ClipSource,
    '__getitem__',
    lambda self, number: note(number) or original(self, number),
  )
  # Threads of an iterator that was left open elsewhere do not count.
  reader = threading.get_ident()

  def note(number):
    if threading.get_ident() == reader:
      read.append(number)

  kwargs = dict(augment_on=augment_on, augmentation={}, num_threads=0)
  plain = take(defaults, **kwargs)
  assert len(read) == 6 * 6
  read.clear()
  assert_same(plain, take(defaults, cache_mb=10, **kwargs))
  assert len(read) == len(set(read)) == 2 * PATIENTS
  read.clear()
  # Room for a few: the others are read again.
  assert_same(plain, take(defaults, cache_mb=0.03, **kwargs))
  assert 2 * PATIENTS < len(read) < 6 * 6


def test_a_cache_counts_and_keeps_only_what_training_sees(defaults):
  source = prepared.load_split(
    defaults['data_dir'], 'camus', 'train', SIZE, features=training_clips.FIELDS
  )
  assert set(source[0]) == set(training_clips.FIELDS)
  cache = training_clips.ClipCache(1)
  for supervision, masks_of in (
    ('sparse', [0, 8]),
    ('full', [0, 4, 8]),
    ('none', []),
  ):
    clip = training_clips.TrainingClips(source, supervision)[1]
    assert clip['masks_of'].tolist() == masks_of
    np.testing.assert_array_equal(clip['masks'], source[1]['masks'][masks_of])
  clips = training_clips.TrainingClips(source, 'sparse', cache)
  assert clips[1] is clips[1] and len(cache) == 1
  # Another process starts with nothing, and with as much room.
  again = pickle.loads(pickle.dumps(clips))
  assert len(again._cache) == 0
  np.testing.assert_array_equal(again[1]['frames'], clips[1]['frames'])
  assert len(again._cache) == 1


@pytest.mark.parametrize(
  'wrong, text',
  [
    (dict(augment_on='gpu'), "augment_on: found 'gpu', wanted one of"),
    (dict(cache_mb=-1), 'cache_mb: found -1, wanted 0'),
  ],
)
def test_misuse_is_named(defaults, wrong, text):
  with pytest.raises(InputError, match=text):
    take(defaults, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_beside_a_running_jax(defaults, method, monkeypatch):
  """Neither do they hang, nor do they start JAX themselves."""
  kwargs = dict(augment_on='device', cache_mb=10)
  reference = take(defaults, **kwargs)
  jax.block_until_ready(jax.jit(lambda x: x @ x)(np.ones((64, 64))))
  # From now on a process that starts JAX dies of a flag that is not there.
  monkeypatch.setenv('XLA_FLAGS', '--xla_no_such_flag=1')
  died = subprocess.run(
    [sys.executable, '-c', 'import jax; jax.devices()'],
    check=False,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
  )
  assert died.returncode
  before = multiprocessing.get_start_method(allow_none=True)
  multiprocessing.set_start_method(method, force=True)
  try:
    assert_same(reference, take(defaults, num_workers=2, **kwargs))
    assert_same(
      take(defaults, augmentation={}),
      take(defaults, augmentation={}, num_workers=2),
    )
  finally:
    multiprocessing.set_start_method(before, force=True)
