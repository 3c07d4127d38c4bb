import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.evaluation import predict


class Bright(nn.Module):
  """A class is where the frame is bright, by two learned offsets."""

  @nn.compact
  def __call__(self, video, train=False):
    assert not train
    offset = self.param('offset', lambda _: jnp.array([-.5, -.8]))
    return {'logits': 20 * (video + offset[None, None, None, None])}


def clip(name, value, frames=3, size=8):
  video = np.full((frames, size, size, 1), value, np.uint8)
  video[:, :2] = 0
  masks = (video[..., 0] > 127).astype(np.uint8)
  return {'video': video, 'masks': masks, 'labeled': np.ones(frames, bool),
          'patient': name, 'view': '4CH', 'ef_percent': np.float32(55),
          'spacing_mm': np.array([.5, .6], np.float32),
          'native_size': np.array([40, 48], np.int32), 'quality': 'Good'}


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
      1 / (1 + np.exp(-20 * (140 / 255 - .5))), abs=1e-3)
  assert not predict.make_predictor(model, threshold=.8)(
      variables, video)[0].any()


class Memory(nn.Module):
  """Adds the frames seen before: what a call gets depends on the order."""

  def init_memory(self, batch):
    return jnp.zeros((batch, 1))

  @nn.compact
  def resume(self, video, memory):
    sums = memory + jnp.cumsum(video[:, :, 0, 0, 0], axis=1)
    logits = jnp.broadcast_to(
        sums[:, :, None, None, None], (*video.shape[:4], 1))
    return {'logits': logits}, sums[:, -1:]


@pytest.mark.parametrize('fps,stride', [(27., 1), (54., 2)])
def test_whole_clips_carry_the_memory_over_chunks(fps, stride):
  count = 2 * predict.CHUNK + 3
  source = clip('p', 0, frames=count) | {'fps': fps, 'ed': 4, 'es': 1}
  source['video'] = source['video'] + np.arange(
      count, dtype=np.uint8)[:, None, None, None]
  whole = predict.WholeClips(Memory(), {}, [source, source])
  for case in whole:
    expected = np.zeros(count)
    for turn in range(stride):
      expected[turn::stride] = np.cumsum(np.arange(count)[turn::stride]) / 255
    assert case.probability[:, 0, 0] == pytest.approx(
        1 / (1 + np.exp(-expected)), abs=2e-3)
    assert (case.ed, case.es) == (4, 1)
  assert whole._run._cache_size() == 1


def test_predicted_clips_are_predicted_when_read(bright):
  model, variables = bright
  clips = [clip(f'p{k}', 60 * k) for k in range(5)]
  cases = predict.PredictedClips(
      predict.make_predictor(model), variables, clips, batch_size=2)
  assert len(cases) == 5
  for number, case in enumerate(cases):
    again = cases[number]
    assert again.patient == case.patient == f'p{number}'
    assert (again.prediction == case.prediction).all()
    assert (again.probability == case.probability).all()
