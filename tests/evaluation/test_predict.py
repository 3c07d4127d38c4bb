import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.evaluation import predict
from echoforge_jax.models import build_model


class Bright(nn.Module):
  """A class is where the frame is bright, by two learned offsets."""

  @nn.compact
  def __call__(self, video, train=False):
    assert not train
    offset = self.param('offset', lambda _: jnp.array([-0.5, -0.8]))
    return {'logits': 20 * (video + offset[None, None, None, None])}


def clip(name, value, frames=3, size=8):
  video = np.full((frames, size, size, 1), value, np.uint8)
  video[:, :2] = 0
  masks = (video[..., 0] > 127).astype(np.uint8)
  return {
    'video': video,
    'masks': masks,
    'labeled': np.ones(frames, bool),
    'patient': name,
    'view': '4CH',
    'ef_percent': np.float32(55),
    'spacing_mm': np.array([0.5, 0.6], np.float32),
    'native_size': np.array([40, 48], np.int32),
    'quality': 'Good',
  }


@pytest.fixture(scope='module', autouse=True)
def cheap_compilation():
  """Optimised code would compile for longer than these tests run."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def bright():
  model = Bright()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8, 1)))
  return model, variables


def test_cases_keep_order_through_padded_batches_and_compile_once(bright):
  model, variables = bright
  traces = []

  class Counting(Bright):
    @nn.compact
    def __call__(self, video, train=False):
      traces.append(video.shape)
      return super().__call__(video, train)

  run = predict.make_predictor(Counting())
  clips = [clip(f'p{k}', 60 * k) for k in range(5)]
  cases = list(predict.predict_clips(run, variables, clips, batch_size=2))
  assert [c.patient for c in cases] == ['p0', 'p1', 'p2', 'p3', 'p4']
  assert traces == [(2, 3, 8, 8, 1)]
  assert run._cache_size() == 1
  for case, source in zip(cases, clips):
    assert case.prediction.dtype == np.uint8
    assert case.prediction.shape == (3, 8, 8)
    assert (case.frames == source['video'][..., 0]).all()
  # 120/255 is under both offsets, 180/255 over the first; 240/255 is over
  # both and the first has the larger probability.
  assert [int(c.prediction[0, 5, 5]) for c in cases] == [0, 0, 0, 1, 1]
  assert cases[3].ef_percent == 55 and cases[3].native_size == (40, 48)
  assert np.isnan(cases[3].edv_ml)


def test_threshold(bright):
  model, variables = bright
  video = np.full((1, 1, 8, 8, 1), 140, np.uint8)  # logit about 0.98, p .73
  masks, likely = predict.make_predictor(model)(variables, video)
  assert masks.all() and float(likely[0, 0, 0, 0]) == pytest.approx(
    1 / (1 + np.exp(-20 * (140 / 255 - 0.5))), abs=1e-3
  )
  assert not predict.make_predictor(model, threshold=0.8)(variables, video)[
    0
  ].any()


class Memory(nn.Module):
  """Adds the frames seen before: what a call gets depends on the order."""

  delay = 0

  def init_memory(self, batch, image_size):
    assert image_size == (8, 8)
    return jnp.zeros((batch, 1))

  @nn.compact
  def resume(self, video, memory):
    sums = memory + jnp.cumsum(video[:, :, 0, 0, 0], axis=1)
    logits = jnp.broadcast_to(
      sums[:, :, None, None, None], (*video.shape[:4], 1)
    )
    return {'logits': logits}, sums[:, -1:]


@pytest.mark.parametrize('fps,stride', [(27.0, 1), (54.0, 2)])
def test_whole_clips_carry_the_memory_over_chunks(fps, stride):
  count = 2 * predict.CHUNK + 3
  source = clip('p', 0, frames=count) | {'fps': fps, 'ed': 4, 'es': 1}
  source['video'] = (
    source['video'] + np.arange(count, dtype=np.uint8)[:, None, None, None]
  )
  whole = predict.WholeClips(Memory(), {}, [source, source])
  for case in whole:
    expected = np.zeros(count)
    for turn in range(stride):
      expected[turn::stride] = np.cumsum(np.arange(count)[turn::stride]) / 255
    assert case.probability[:, 0, 0] == pytest.approx(
      1 / (1 + np.exp(-expected)), abs=2e-3
    )
    assert (case.ed, case.es) == (4, 1)
  assert whole._run._cache_size() == 1


def test_whole_clips_of_a_model_that_looks_ahead():
  """An SSCF, whose outputs lag one frame, equals its windows by hand."""
  model = build_model('sscf', width=4, norm='group')
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, 64, 64, 1), jnp.float32),
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.normal(
      x.ndim < 2, 0.3 / np.sqrt(x.size / x.shape[-1]), x.shape
    ).astype(np.float32),
    shapes,
  )
  run = jax.jit(model.apply)
  clips = []
  for count, fps in (
    (1, 54.0),
    (predict.CHUNK, 27.0),
    (predict.CHUNK + 3, 54.0),
  ):
    video = rng.integers(0, 256, (count, 64, 64, 1), dtype=np.uint8)
    clips.append(
      clip('p', 0, frames=count)
      | {'video': video, 'fps': fps, 'ed': 0, 'es': 0}
    )
  for case, source in zip(predict.WholeClips(model, variables, clips), clips):
    video, stride = source['video'], predict.stride_of(source['fps'])
    for turn in range(min(stride, len(video))):
      part = video[turn::stride]
      # One window at a time compiles once.
      order = np.clip(
        np.arange(len(part))[:, None] + np.arange(-1, 2), 0, len(part) - 1
      )
      logits = np.concatenate(
        [
          run(variables, part[window][None] / np.float32(255))['logits']
          for window in order
        ]
      )[..., 0]
      assert case.probability[turn::stride] == pytest.approx(
        1 / (1 + np.exp(-logits)), abs=2e-3
      )
      assert np.std(logits) > 0.01


def test_predicted_clips_are_predicted_when_read(bright):
  model, variables = bright
  clips = [clip(f'p{k}', 60 * k) for k in range(5)]
  cases = predict.PredictedClips(
    predict.make_predictor(model), variables, clips, batch_size=2
  )
  assert len(cases) == 5
  for number, case in enumerate(cases):
    again = cases[number]
    assert again.patient == case.patient == f'p{number}'
    assert (again.prediction == case.prediction).all()
    assert (again.probability == case.probability).all()
