"""Streams: the fixed lag, no recompilation, constant memory."""

import gc
import math

import jax
import numpy as np
import pytest

from benchmarks.speed.timing import Compilations
from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import lag as lags
from echoforge_jax.inference import segmenter as segmenters
from echoforge_jax.models import build_model


def clip(frames=9, shape=(40, 52), seed=0):
  return np.random.default_rng(seed).integers(
    0, 255, (frames, *shape), dtype=np.uint8
  )


def logits_of(segmenter, video, **options):
  stream = segmenter.stream(**options)
  ready = [stream.advance(frame) for frame in video]
  return [x for x in ready if x is not None] + list(stream.drain())


@pytest.mark.parametrize('lag', [1, 2, 5])
def test_lag_averages_around_each_frame(segmenter, lag):
  video = clip(frames=7)
  plain = np.stack(logits_of(segmenter, video))
  smooth = np.stack(logits_of(segmenter, video, lag=lag))
  assert plain.shape == smooth.shape == (7, 32, 32, 1)
  for t in range(7):
    near = [s for s in range(7) if abs(s - t) <= lag]
    weight = np.asarray([lag + 1 - abs(s - t) for s in near], np.float64)
    wanted = np.tensordot(weight / weight.sum(), plain[near], 1)
    np.testing.assert_allclose(smooth[t], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'frames,fps,lag',
  [(9, math.nan, 2), (9, 60.0, 3), (2, math.nan, 3), (1, 60.0, 1)],
)
def test_a_lagging_stream_equals_segment(segmenter, frames, fps, lag):
  video = clip(frames=frames)
  whole = sectors.whole_image(video.shape[1:])
  stream = segmenter.stream(fps=fps, sector=whole, lag=lag)
  assert stream.delay == lag
  streamed = np.stack([stream.step(frame) for frame in video])
  assert not streamed[:lag].any()
  rest = stream.flush()
  assert len(rest) == min(lag, frames)
  offline = segmenter.segment(video, fps=fps, sector=whole, lag=lag)
  np.testing.assert_array_equal(np.concatenate([streamed[lag:], rest]), offline)
  np.testing.assert_array_equal(
    offline, segmenter.segment(video, fps=fps, sector=whole, lag=lag)
  )
  with pytest.raises(InputError, match='has ended'):
    stream.step(video[0])


def test_no_lag_is_the_default_and_changes_nothing(segmenter):
  video = clip()
  whole = sectors.whole_image(video.shape[1:])
  np.testing.assert_array_equal(
    segmenter.segment(video, sector=whole),
    segmenter.segment(video, sector=whole, lag=0),
  )
  assert segmenter.stream().delay == segmenter.stream(lag=0).delay == 0


def test_a_lag_makes_masks_steadier(segmenter):
  video = clip(frames=16)
  whole = sectors.whole_image(video.shape[1:])

  def flicker(lag):
    masks = segmenter.segment(video, sector=whole, lag=lag) > 0
    return (masks[1:] != masks[:-1]).mean()

  assert flicker(0) > 1.5 * flicker(2) > 0


@pytest.mark.parametrize('fps', [math.nan, 60.0])
def test_a_lag_adds_to_the_delay_of_a_model_that_looks_ahead(tree_of, fps):
  model = build_model('sscf', width=8, clips=True, norm='group')
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, 64, 64, 1), np.float32),
  )
  segmenter = segmenters.Segmenter(
    model, tree_of(shapes), classes=('lv',), image_size=64
  )
  video = clip(frames=6)
  whole = sectors.whole_image(video.shape[1:])
  stream = segmenter.stream(fps=fps, sector=whole, lag=2)
  assert stream.delay == segmenters.stride_of(fps) + 2
  streamed = [stream.step(frame) for frame in video][stream.delay :]
  masks = np.stack([*streamed, *stream.flush()])
  np.testing.assert_array_equal(
    masks, segmenter.segment(video, fps=fps, sector=whole, lag=2)
  )
  plain = np.stack(logits_of(segmenter, video, fps=fps))
  smooth = np.stack(logits_of(segmenter, video, fps=fps, lag=2))
  middle = np.tensordot(np.asarray([1, 2, 3, 2, 1]) / 9, plain[1:6], 1)
  np.testing.assert_allclose(smooth[3], middle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('lag', [-1, lags.MAX_LAG + 1, 1.5, True, '2'])
def test_wrong_lags(segmenter, lag):
  with pytest.raises(InputError, match='whole number of frames from 0 to 30'):
    segmenter.stream(lag=lag)


@pytest.mark.parametrize('fps,lag', [(math.nan, 0), (60.0, 0), (30.0, 3)])
def test_frames_compile_nothing_and_hold_nothing(segmenter, fps, lag):
  video = clip()
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


def test_a_second_stream_compiles_nothing(segmenter):
  segmenter.segment(clip(), lag=1)
  with Compilations() as compiled:
    segmenter.segment(clip(frames=4, shape=(70, 33), seed=3), lag=1)
  assert compiled.count == 0
