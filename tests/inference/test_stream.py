"""The frame loop and streams: order, delay, lag, no recompilation."""

import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed.timing import Compilations
from echoforge_jax.errors import InputError
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.inference import stream as streams
from echoforge_jax.models.memory import stride_of
from tests.inference.clips import logits_of, noise


def counting_step(frame, memory):
  """A network whose logits tell what it was fed and what it remembered."""
  return jnp.full((2, 2, 1), float(memory)), memory + float(frame.mean())


def frames(count):
  return [np.full((2, 2), 1 + index, np.uint8) for index in range(count)]


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('delay', [0, 1])
def test_each_phase_of_the_stride_has_its_memory(stride, delay):
  loop = streams.FrameLoop(counting_step, [0.0] * stride, delay=delay)
  assert loop.delay == delay * stride
  found = [x[0, 0, 0] for x in loop.run(frames(7))]
  # With a delay, a frame's logits come with the next frame of its phase, and
  # the last frame of a phase is fed once more.
  wanted = np.zeros(7)
  for turn in range(stride):
    members = np.arange(turn, 7, stride)
    seen = np.concatenate([[0], np.cumsum(members + 1)])
    wanted[members] = seen[delay : delay + len(members)]
  assert found == wanted.tolist()


def test_run_is_push_and_drain():
  one, other = (streams.FrameLoop(counting_step, [0.0] * 2, delay=1, lag=2) for _ in range(2))
  ready = [one.push(frame) for frame in frames(20)]
  assert [x is None for x in ready] == [True] * 4 + [False] * 16
  found = [x for x in ready if x is not None] + list(one.drain())
  np.testing.assert_array_equal(found, list(other.run(frames(20))))
  with pytest.raises(InputError, match='has ended'):
    one.push(frames(1)[0])


@pytest.mark.slow
@pytest.mark.parametrize('lag', [1, 2, 5])
def test_lag_averages_around_each_frame(segmenter, lag):
  video = noise(7, (40, 52))
  plain = logits_of(segmenter, video)
  smooth = logits_of(segmenter, video, lag=lag)
  assert plain.shape == smooth.shape == (7, 32, 32, 1)
  for t in range(7):
    near = [s for s in range(7) if abs(s - t) <= lag]
    weight = np.asarray([lag + 1 - abs(s - t) for s in near], np.float64)
    wanted = np.tensordot(weight / weight.sum(), plain[near], 1)
    np.testing.assert_allclose(smooth[t], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'model, count, fps, lag',
  [
    ('segmenter', 11, math.nan, 0),
    ('segmenter', 11, 60.0, 0),
    ('segmenter', 9, math.nan, 2),
    ('segmenter', 9, 60.0, 3),
    ('segmenter', 2, math.nan, 3),
    ('segmenter', 1, 60.0, 1),
    ('looking_ahead', 7, math.nan, 0),
    ('looking_ahead', 7, 60.0, 0),
    ('looking_ahead', 1, 60.0, 0),
    ('looking_ahead', 6, 60.0, 2),
  ],
)
def test_a_stream_equals_segment(model, count, fps, lag, request):
  segmenter = request.getfixturevalue(model)
  video = noise(count)
  whole = whole_image(video.shape[1:])
  stream = segmenter.stream(fps=fps, sector=whole, lag=lag)
  assert stream.delay == segmenter.model.delay * stride_of(fps) + lag
  streamed = np.stack([stream.step(frame) for frame in video])
  assert not streamed[: stream.delay].any()
  rest = stream.flush()
  assert rest.shape == (min(stream.delay, count), 60, 76)
  assert rest.dtype == np.uint8
  offline = segmenter.segment(video, fps=fps, sector=whole, lag=lag)
  np.testing.assert_array_equal(np.concatenate([streamed[stream.delay :], rest]), offline)
  with pytest.raises(InputError, match='has ended'):
    stream.step(video[0])


@pytest.mark.slow
def test_a_lag_makes_masks_steadier(segmenter):
  video = noise(16)
  whole = whole_image(video.shape[1:])

  def flicker(lag):
    masks = segmenter.segment(video, sector=whole, lag=lag) > 0
    return (masks[1:] != masks[:-1]).mean()

  assert flicker(0) > 1.5 * flicker(2) > 0


@pytest.mark.slow
def test_a_stream_refuses_a_change_of_size(segmenter):
  stream = segmenter.stream()
  stream.step(noise()[0])
  with pytest.raises(InputError, match='frame 1 is'):
    stream.step(noise(shape=(50, 50))[0])


def test_a_stream_that_never_began_owes_nothing(segmenter):
  assert segmenter.stream(lag=1).flush().shape == (0, 0, 0)


@pytest.mark.parametrize('lag', [-1, streams.MAX_LAG + 1, 1.5, True, '2'])
def test_wrong_lags(segmenter, lag):
  with pytest.raises(InputError, match='whole number of frames from 0 to 30'):
    segmenter.stream(lag=lag)


@pytest.mark.slow
@pytest.mark.parametrize('fps,lag', [(math.nan, 0), (60.0, 0), (30.0, 3)])
def test_frames_compile_nothing_and_hold_nothing(segmenter, fps, lag):
  video = noise(9, (40, 52))
  stream = segmenter.stream(fps=fps, lag=lag)
  for frame in video:
    stream.step(frame)
  gc.collect()
  held = len(jax.live_arrays())
  with Compilations() as compiled:
    for index in range(300):
      stream.step(video[index % len(video)])
      if index % 100 == 50:
        assert len(jax.live_arrays()) <= held
  gc.collect()
  assert compiled.count == 0
  assert len(jax.live_arrays()) == held


def test_clips_of_all_lengths_and_sizes_compile_once(segmenter):
  segmenter.segment(noise(), lag=1)
  with Compilations() as compiled:
    for count, shape in ((3, (40, 52)), (6, (64, 64)), (9, (33, 47))):
      segmenter.segment(noise(count, shape), fps=50, lag=1)
  assert compiled.count == 0
