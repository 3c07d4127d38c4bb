import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.models import cpr


def _features(seed=0):
  return jax.random.normal(jax.random.key(seed), (3, 4, 2, 2, 5))


LABELED = jnp.asarray([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
ALL = jnp.broadcast_to(jnp.arange(4)[None], (3, 4))


@pytest.mark.slow
def test_references_leave_the_frame_itself_out():
  x = _features()
  references, found = cpr.reference_features(x, LABELED, ALL)
  assert found.all()
  others = (x[0, 0] + x[0, 3] + x[1, 1]) / 3.0
  np.testing.assert_allclose(references[0, 0], x[0, 3], atol=1e-6)
  np.testing.assert_allclose(references[0, 3], x[0, 0], atol=1e-6)
  np.testing.assert_allclose(references[0, 1], (x[0, 0] + x[0, 3]) / 2.0, atol=1e-6)
  # Clip 1 has one labelled frame: it serves the others, not itself.
  np.testing.assert_allclose(references[1, 0], x[1, 1], atol=1e-6)
  np.testing.assert_allclose(references[1, 1], (x[0, 0] + x[0, 3]) / 2.0, atol=1e-6)
  # Clip 2 has none.
  np.testing.assert_allclose(references[2, 0], others, atol=1e-6)


@pytest.mark.slow
def test_own_features_never_matter():
  x = _features()
  before, _ = cpr.reference_features(x, LABELED, ALL)
  for clip, frame, loss in ((0, 0, 0), (0, 3, 0), (1, 1, 1e-4), (2, 2, 0)):
    after, _ = cpr.reference_features(x.at[clip, frame].set(1e3), LABELED, ALL)
    # A clip whose only label is the frame's own takes it out of the batch's
    # sum again, to rounding of that sum.
    np.testing.assert_allclose(before[clip, frame], after[clip, frame], rtol=0, atol=loss)


def test_frames_select_targets():
  x = _features()
  every, _ = cpr.reference_features(x, LABELED, ALL)
  frames = jnp.asarray([[0, 3], [1, 1], [2, 0]])
  some, _ = cpr.reference_features(x, LABELED, frames)
  for clip in range(3):
    for i in range(2):
      np.testing.assert_allclose(some[clip, i], every[clip, frames[clip, i]], atol=1e-6)


def test_a_batch_without_labels_has_no_reference():
  references, found = cpr.reference_features(_features(), jnp.zeros((3, 4), bool), ALL)
  assert not found.any()
  assert (references == 0).all()


def test_reforging_is_the_papers_channel_attention(fill):
  rng = np.random.default_rng(0)
  source, target = rng.standard_normal((2, 1, 6, 4)).astype(np.float32)
  module = cpr.PseudoLabelReforging()
  variables = fill(module, source, target)
  params = jax.tree.map(np.asarray, variables['params'])

  def centred(x):
    return x - x.mean(0)

  q = centred(source[0]) @ params['query']['kernel']
  k = centred(target[0]) @ params['key']['kernel']
  v = target[0] @ params['value']['kernel']
  s = q.T @ k
  s = params['gain'] * (s - s.mean()) / s.std()
  a = np.exp(s) / np.exp(s).sum(1, keepdims=True)
  np.testing.assert_allclose(module.apply(variables, source, target)[0], (a @ v.T).T, atol=1e-4)


@pytest.mark.slow
def test_starts_well_conditioned():
  # Channels that are active in their own places: reforging keeps them.
  place = jax.nn.one_hot(jnp.arange(64) % 16, 16) * 4.0
  noise = jax.random.normal(jax.random.key(0), (2, 1, 64, 16))
  source, target = place[None] + noise[0], place[None] + noise[1]
  module = cpr.PseudoLabelReforging()
  out = module.apply(module.init(jax.random.key(1), source, target), source, target)
  for c in range(16):
    assert np.corrcoef(out[0, :, c], target[0, :, c])[0, 1] > 0.8


@pytest.mark.slow
def test_equal_and_black_features_give_finite_gradients():
  module = cpr.PseudoLabelReforging()
  zeros = jnp.zeros((1, 6, 4))
  variables = module.init(jax.random.key(0), zeros, zeros)
  gradients = jax.grad(lambda p, x: module.apply(p, x, x).sum(), argnums=(0, 1))(variables, zeros)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
