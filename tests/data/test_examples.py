"""What training keeps of a clip, and how it is turned into an example."""

import itertools
import threading

import numpy as np
import pytest

from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.data.examples import FIELDS, Examples, Order, TrainingClips
from echoforge_jax.data.spec import DataSpec

SIZE, LENGTH, T = 8, 9, 5


class Records:
  """Prepared records by number, all different; counts what is read."""

  def __init__(self):
    self.read = []
    self._lock = threading.Lock()

  def __getitem__(self, number):
    with self._lock:
      self.read.append(number)
    frames = np.arange(LENGTH)[:, None, None] + np.full((LENGTH, SIZE, SIZE), 10 * number, np.uint8)
    return {
      'frames': frames.astype(np.uint8),
      'masks': (1 + np.arange(LENGTH) % 3)[:, None, None].astype(np.uint8)
      * np.ones((1, SIZE, SIZE), np.uint8),
      'labeled': np.arange(LENGTH) % 4 == 0,
      'ed': np.int32(0),
      'es': np.int32(8),
      'spacing_mm': np.ones(2, np.float32),
    }


def make_spec(**fields):
  return DataSpec(**{'data_dir': '', 'dataset': '', 'image_size': SIZE, 'num_frames': T} | fields)


def test_records_hold_the_fields_that_are_read():
  assert set(Records()[0]) == set(FIELDS)


@pytest.mark.parametrize(
  'supervision, hidden, labeled',
  [('sparse', (), [0, 8]), ('full', (), [0, 4, 8]), ('full', (1,), []), ('sparse', None, [])],
)
def test_only_what_training_may_see_is_kept(supervision, hidden, labeled):
  spec = make_spec(supervision=supervision, classes=('lv', 'myo', 'la'))
  clip = TrainingClips(Records(), spec, hidden)[1]
  assert np.flatnonzero(clip.mask_of >= 0).tolist() == labeled
  assert len(clip.masks) == len(labeled)
  np.testing.assert_array_equal(clip.masks[:, 0, 0], [1 + frame % 3 for frame in labeled])


@pytest.mark.parametrize('room', [0, 3, 10])
def test_kept_clips_are_read_once(room):
  """There is room for no clip, for some, which are never dropped, or for all.

  Ten clips are read in three epochs.
  """
  records = Records()
  bytes_of_a_clip = (LENGTH + 2) * SIZE**2
  spec = make_spec(cache_mb=(room + 0.5) * bytes_of_a_clip / 1e6)
  clips = TrainingClips(records, spec)
  for number in list(range(10)) * 3:
    np.testing.assert_array_equal(clips[number].frames[0, 0, 0], 10 * number)
  assert len(records.read) == 30 - 2 * room
  assert set(records.read) == set(range(10))


def test_threads_share_what_is_kept():
  records = Records()
  clips = TrainingClips(records, make_spec(cache_mb=1))

  def read():
    for number in range(10):
      assert clips[number].frames[0, 0, 0] == 10 * number

  threads = [threading.Thread(target=read) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  count = len(records.read)
  read()
  assert len(records.read) == count


@pytest.mark.parametrize('supervision', ['sparse', 'full'])
@pytest.mark.parametrize('reversal', [0.0, 1.0])
def test_an_example_holds_frames_labels_and_a_seed(supervision, reversal):
  spec = make_spec(
    supervision=supervision,
    augmentation=AugmentConfig(reversal=reversal),
    classes=('lv', 'myo', 'la'),
  )
  draw = Examples(TrainingClips(Records(), spec), spec)
  rng = np.random.default_rng(0)
  examples = [draw(2, rng) for _ in range(3)]
  frames = np.array([0, 2, 4, 6, 8])[:: -1 if reversal else 1]
  for example in examples:
    assert example['video'][:, 0, 0, 0].tolist() == (20 + frames).tolist()
    full = supervision == 'full'
    known = frames % 4 == 0 if full else np.isin(frames, [0, 8])
    assert example['labeled'].tolist() == known.tolist()
    wanted = np.where(known, 1 + frames % 3, 0)
    found = example['masks'][:, 0, 0]
    assert found.tolist() == (wanted if full else wanted[[0, -1]]).tolist()
  assert len({int(example['seed']) for example in examples}) == 3


def test_blind_windows_are_of_clips_without_labels():
  spec = make_spec(unlabeled_window='blind')
  draw = Examples(TrainingClips(Records(), spec, hidden=(1,)), spec)
  rng = np.random.default_rng(0)
  windows = {tuple(draw(1, rng)['video'][:, 0, 0, 0] - 10) for _ in range(40)}
  assert len(windows) > 10 and all(0 <= min(w) < max(w) < LENGTH for w in windows)
  assert draw(0, rng)['video'][:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
  assert not draw(1, rng)['labeled'].any()


def test_every_epoch_is_another_order_of_all_clips():
  order = Order([3, 5, 8, 9], seed=0)
  epochs = [[order[position] for position in range(start, start + 4)] for start in range(0, 40, 4)]
  assert all(sorted(epoch) == [3, 5, 8, 9] for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 3
  # Any position at any time gives the same.
  again = Order([3, 5, 8, 9], seed=0)
  assert [again[i] for i in reversed(range(40))] == list(itertools.chain(*epochs))[::-1]
