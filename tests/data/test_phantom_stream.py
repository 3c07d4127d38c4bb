"""Clips drawn while training: by number, from a window that moves on."""

import pickle

import numpy as np
import pytest

from echoforge_jax.data import phantom_stream as streamed
from echoforge_jax.data import pipeline
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.errors import InputError

SIZE, FRAMES = 32, 3
STREAM = {'pool': 16, 'uses': 2, 'held_out': 8}


@pytest.fixture(scope='module')
def options():
  return {
    'data_dir': '',
    'dataset': 'phantom_stream',
    'image_size': SIZE,
    'num_frames': FRAMES,
    'batch_size': 2,
    'seed': 5,
    'stream': STREAM,
    'supervision': 'full',
    'augmentation': {'preset': 'none'},
    'num_threads': 2,
  }


@pytest.mark.slow
def test_batches_are_a_function_of_the_seed_and_go_on(options):
  first = pipeline.make_train_iterator(**options)
  batches = [next(first) for _ in range(5)]
  first.close()
  assert batches[0]['video_weak'].shape == (2, FRAMES, SIZE, SIZE, 1)
  assert batches[0]['labeled'].all() and (batches[0]['masks'] == 1).any()
  assert np.isnan(batches[0]['spacing_mm']).all()
  assert (batches[0]['video_weak'] != batches[1]['video_weak']).any()
  again = pipeline.make_train_iterator(**options)
  again.set_state({'batches': 3})
  for batch in batches[3:]:
    for name, value in next(again).items():
      np.testing.assert_array_equal(value, batch[name])
  again.close()


@pytest.mark.slow
def test_a_dropped_group_is_drawn_again_alike():
  source = streamed.PhantomSource(
    StreamConfig(pool=8), num_frames=FRAMES, image_size=SIZE, seed=1
  )
  first = source[3]
  for group in range(1, 6):  # More than are kept.
    source._groups[group] = {}
  source[8 * 7]
  assert 0 not in source._groups
  np.testing.assert_array_equal(source[3]['frames'], first['frames'])
  np.testing.assert_array_equal(source[3]['masks'], first['masks'])


def test_groups_that_the_window_passed_are_dropped_first():
  source = streamed.PhantomSource(
    StreamConfig(pool=16), num_frames=FRAMES, image_size=SIZE, seed=1
  )
  drawn = []
  source._draw = lambda group: drawn.append(group) or {}
  for group in (3, 1, 2, 4, 0, 5, 6, 4, 5, 6):
    source._group(group)
  assert drawn == [3, 1, 2, 4, 0, 5, 6] and max(source._groups) == 6


@pytest.mark.slow
def test_unlabeled_clips_are_of_other_patients(options):
  both = pipeline.make_train_iterator(**options | {'unlabeled_batch_size': 2})
  batch = next(both)
  both.close()
  assert batch['labeled'].all(axis=1).tolist() == [True, False] * 2
  frames = batch['video_weak'][..., 0]
  labeled = streamed.PhantomSource(
    StreamConfig(**STREAM), num_frames=FRAMES, image_size=SIZE, seed=5
  )
  known = [labeled[n]['frames'] for n in range(24)]
  assert [any((clip == one).all() for one in known) for clip in frames] == [
    True,
    False,
  ] * 2


@pytest.mark.slow
def test_held_out_clips_are_others_and_the_same_for_every_seed(options):
  keys = ('data_dir', 'dataset', 'image_size', 'num_frames', 'stream')
  held = pipeline.eval_clips(
    **{k: options[k] for k in keys}, split='validation'
  )
  assert len(held) == STREAM['held_out']
  clip = held[1]
  assert clip['video'].shape == (FRAMES, SIZE, SIZE, 1)
  assert clip['labeled'].all() and (clip['ed'], clip['es']) == (0, FRAMES - 1)
  train = streamed.PhantomSource(
    StreamConfig(**STREAM), num_frames=FRAMES, image_size=SIZE, seed=0
  )
  assert (train[1]['frames'] != clip['video'][..., 0]).any()


def test_the_window_moves_on_and_uses_clips_as_often_as_asked():
  order = streamed.StreamOrder(StreamConfig(pool=40, uses=4), seed=3)
  numbers = np.array([order[i] for i in range(2000)])
  position = np.arange(2000) // 4
  assert ((numbers >= position) & (numbers < position + 40)).all()
  inner = np.bincount(numbers)[60:440]
  assert inner.mean() == pytest.approx(4, rel=0.05)
  assert (
    numbers
    != [
      streamed.StreamOrder(StreamConfig(pool=40, uses=4), seed=4)[i]
      for i in range(2000)
    ]
  ).any()


@pytest.mark.parametrize(
  'values, text',
  [
    ({'pools': 3}, 'pools'),
    ({'pool': 0}, 'pool is 0'),
    ({'uses': -1}, 'uses is -1'),
    ({'style': 'real'}, 'style'),
  ],
)
def test_misuse(values, text):
  with pytest.raises(InputError, match=text):
    StreamConfig.from_mapping(values)


def test_workers_are_refused(options):
  with pytest.raises(InputError, match='num_workers is 2'):
    pipeline.make_train_dataset(**options, num_workers=2)
  source = streamed.PhantomSource(
    StreamConfig(), num_frames=2, image_size=SIZE, seed=0
  )
  with pytest.raises(InputError, match='num_workers'):
    pickle.dumps(source)
