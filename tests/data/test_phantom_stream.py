"""Clips drawn while training: by number, from a window that moves on."""

import dataclasses

import numpy as np
import pytest

from echoforge_jax.data import pipeline
from echoforge_jax.data.phantom_stream import PhantomSource, StreamConfig, StreamOrder
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.phantom.config import PhantomConfig

SIZE, FRAMES = 32, 3
STREAM = StreamConfig(pool=16, uses=2, held_out=8)
SPEC = DataSpec(
  data_dir='',
  dataset='phantom_stream',
  image_size=SIZE,
  num_frames=FRAMES,
  batch_size=2,
  seed=5,
  stream=STREAM,
  supervision='full',
)


@pytest.mark.slow
def test_batches_are_a_function_of_the_seed_and_go_on():
  first = pipeline.make_train_iterator(SPEC, num_threads=2)
  batches = [next(first) for _ in range(5)]
  first.close()
  assert batches[0]['video'].shape == (2, FRAMES, SIZE, SIZE, 1)
  assert batches[0]['labeled'].all() and (batches[0]['masks'] == 1).any()
  assert np.isnan(batches[0]['spacing_mm']).all()
  assert (batches[0]['video'] != batches[1]['video']).any()
  again = pipeline.make_train_iterator(SPEC, num_threads=2)
  again.set_state({'batches': 3})
  for batch in batches[3:]:
    for name, value in next(again).items():
      np.testing.assert_array_equal(value, batch[name])
  again.close()


@pytest.mark.slow
def test_a_dropped_group_is_drawn_again_alike():
  """A pool of 8 clips keeps three groups of 8, those of the highest numbers."""
  source = PhantomSource(StreamConfig(pool=8), num_frames=FRAMES, image_size=SIZE, seed=1)
  first = [source[8 * group] for group in range(8)]
  for group in (7, 0, 6):
    again = source[8 * group]
    # Kept arrays are views of the same group, drawn ones are not.
    kept = np.shares_memory(again['frames'], first[group]['frames'])
    assert kept == (group > 0)
    for name in ('frames', 'masks'):
      np.testing.assert_array_equal(again[name], first[group][name])


@pytest.mark.slow
def test_unlabeled_clips_are_of_other_patients():
  both = pipeline.make_train_iterator(dataclasses.replace(SPEC, unlabeled_batch_size=2))
  batch = next(both)
  both.close()
  assert batch['labeled'].all(axis=1).tolist() == [True, False] * 2
  frames = batch['video'][..., 0]
  labeled = PhantomSource(STREAM, num_frames=FRAMES, image_size=SIZE, seed=5)
  known = [labeled[n]['frames'] for n in range(24)]
  assert [any((clip == one).all() for one in known) for clip in frames] == [True, False] * 2


@pytest.mark.slow
def test_held_out_clips_are_others_and_the_same_for_every_seed():
  held = pipeline.eval_clips(SPEC, 'validation')
  assert len(held) == STREAM.held_out
  clip = held[1]
  assert clip['video'].shape == (FRAMES, SIZE, SIZE, 1)
  assert clip['labeled'].all() and (clip['ed'], clip['es']) == (0, FRAMES - 1)
  train = PhantomSource(STREAM, num_frames=FRAMES, image_size=SIZE, seed=0)
  assert (train[1]['frames'] != clip['video'][..., 0]).any()


def test_the_window_moves_on_and_uses_clips_as_often_as_asked():
  order = StreamOrder(StreamConfig(pool=40, uses=4), seed=3)
  numbers = np.array([order[i] for i in range(2000)])
  position = np.arange(2000) // 4
  assert ((numbers >= position) & (numbers < position + 40)).all()
  inner = np.bincount(numbers)[60:440]
  assert inner.mean() == pytest.approx(4, rel=0.05)
  assert (
    numbers != [StreamOrder(StreamConfig(pool=40, uses=4), seed=4)[i] for i in range(2000)]
  ).any()


@pytest.mark.parametrize(
  'values, text',
  [
    ({'pool': 0}, 'pool is 0'),
    ({'uses': -1}, 'uses is -1'),
    ({'style': 'camus+real'}, 'style'),
    ({'without': 'x'}, 'without'),
  ],
)
def test_misuse(values, text):
  with pytest.raises(InputError, match=text):
    StreamConfig(**values)


def test_groups_take_turns_between_presets_and_lack_what_is_left_out():
  narrow, wide = StreamConfig(style='camus+transfer', without='haze').presets()
  assert narrow == PhantomConfig.camus().without('haze') and narrow.apex_haze_share == 0
  assert wide.photometric and not narrow.photometric and wide.apex_haze_share == 0
