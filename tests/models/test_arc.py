import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import arc


@pytest.mark.parametrize(
  'anchors, classes, groups',
  [
    (1, 1, (1, 0)),
    (2, 1, (1, 0)),
    (3, 1, (1, 0, 0)),
    (4, 1, (1, 1, 0, 0)),
    (2, 3, (1, 2, 3, 0)),
    (4, 2, (1, 1, 2, 2, 0, 0)),
  ],
)
def test_anchor_groups(anchors, classes, groups):
  assert arc.anchor_groups(anchors, classes) == groups


def test_group_probabilities_are_sums_of_anchor_probabilities():
  similarities = jax.random.normal(jax.random.key(0), (6, 4))
  groups = (1, 1, 0, 0)
  scores = arc.group_scores(similarities, groups)
  each = jax.nn.softmax(similarities)
  np.testing.assert_allclose(
    jax.nn.softmax(scores), np.stack([each[:, 2:].sum(1), each[:, :2].sum(1)], 1), atol=1e-6
  )


def _ambiguous_example(classes=1):
  keys = jax.random.split(jax.random.key(1), 3)
  groups = arc.anchor_groups(2, classes)
  x = jax.random.normal(keys[0], (3, 8, 8, 5))
  similarities = jax.random.normal(keys[1], (3, 4, 4, len(groups)))
  anchors = jax.random.normal(keys[2], (3, len(groups), 5))
  return x, similarities, anchors, groups


@pytest.mark.slow
def test_only_ambiguous_patches_move_and_by_the_rule():
  x, similarities, anchors, groups = _ambiguous_example()
  out, ambiguous = arc.pull_ambiguous(x, similarities, anchors, groups, band=0.1, pull=0.5)
  foreground = np.asarray(jax.nn.softmax(similarities))[..., 0]
  expected = (foreground >= 0.4) & (foreground <= 0.6)
  assert 0 < expected.sum() < expected.size
  np.testing.assert_array_equal(ambiguous, expected)
  x, out, anchors = (np.asarray(v) for v in (x, out, anchors))
  for n, r, c in np.ndindex(*expected.shape):
    cell = np.s_[n, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
    if not expected[n, r, c]:
      np.testing.assert_array_equal(out[cell], x[cell])  # Bit for bit.
      continue
    s = foreground[n, r, c]
    weight = 0.5 * (2.0 * max(s, 1.0 - s) - 1.0) / 0.2
    anchor = anchors[n, 0 if s > 0.5 else 1]
    np.testing.assert_allclose(out[cell], (1.0 - weight) * x[cell] + weight * anchor, atol=1e-5)
    assert (out[cell] != x[cell]).any()


@pytest.mark.slow
def test_a_falling_pull_is_largest_in_the_middle_and_never_jumps():
  anchors = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]])
  shares = np.linspace(0.35, 0.65, 61)
  similarities = jnp.log(jnp.stack([shares, 1 - shares], -1)).reshape(1, 61, 1, 2)
  x = jnp.full((1, 61, 1, 2), 3.0)
  groups = arc.anchor_groups(2, 1)
  options = {'band': 0.1, 'pull': 0.5, 'shape': 'falling'}
  out, _ = arc.pull_ambiguous(x, similarities, anchors, groups, **options)
  edge = np.abs(2 * shares - 1) / 0.2
  weight = 0.5 * np.maximum(1 - edge, 0)
  wanted = 3 + weight[:, None] * (np.stack([shares, 1 - shares], -1) - 3)
  np.testing.assert_allclose(out[0, :, 0], wanted, atol=1e-5)
  assert np.abs(np.diff(np.asarray(out[0, :, 0]), axis=0)).max() < 0.1


@pytest.mark.slow
def test_the_temperature_does_not_fall_below_its_least(fill):
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
  made = {least: arc.AnchorRecalibration(least_temperature=least) for least in (0.0, 0.1)}
  variables = fill(made[0.0], x)
  for log_temperature, same in ((0.0, True), (-6.0, False)):
    variables['params']['log_temperature'] = jnp.full((1,), log_temperature)
    one, two = (module.apply(variables, x).scores for module in made.values())
    assert (np.abs(one - two).max() < 1e-6) == same
  variables['params']['log_temperature'] = jnp.full((1,), np.log(0.1))
  np.testing.assert_allclose(made[0.1].apply(variables, x).scores, two, rtol=1e-5)


@pytest.mark.slow
def test_several_classes_compare_the_two_likeliest():
  x, similarities, anchors, groups = _ambiguous_example(classes=3)
  _, ambiguous = arc.pull_ambiguous(x, similarities, anchors, groups, band=0.1, pull=0.5)
  ordered = np.sort(np.asarray(jax.nn.softmax(similarities)), -1)
  ratio = ordered[..., -1] / (ordered[..., -1] + ordered[..., -2])
  np.testing.assert_array_equal(ambiguous, ratio <= 0.6)


@pytest.mark.slow
def test_nothing_is_pulled_to_a_background_that_has_no_anchor():
  groups = arc.anchor_groups(1, 1)
  similarities = jnp.asarray([[0.0, 0.1], [0.1, 0.0]]).reshape(1, 2, 1, 2)
  x = jax.random.normal(jax.random.key(0), (1, 2, 1, 4))
  _, ambiguous = arc.pull_ambiguous(
    x, similarities, jnp.ones((1, 1, 4)), groups, band=0.1, pull=0.5
  )
  np.testing.assert_array_equal(ambiguous[0, :, 0], [False, True])


@pytest.mark.slow
def test_masked_attention_equals_gathering_the_nearest_pixels(fill):
  rng = np.random.default_rng(0)
  anchors = rng.standard_normal((1, 2, 8)).astype(np.float32)
  pixels = rng.standard_normal((1, 20, 8)).astype(np.float32)
  module = arc.AnchorUpdate(neighbours=5)
  variables = fill(module, anchors, pixels)
  params = variables['params']
  updated = module.apply(variables, anchors, pixels)
  for i in range(2):
    a = anchors[0, i]
    order = np.argsort(((pixels[0] - a) ** 2).sum(-1))[:5]
    near = pixels[0][order]
    query = (a - a.mean()) / np.sqrt(a.var() + 1e-6)
    query = query * params['norm']['scale'] + params['norm']['bias']
    query = query @ params['query']['kernel']
    # The key projection is the transpose of the absorbed matrix.
    logits = (near @ params['key_transposed']['kernel'].T) @ query
    weights = np.exp(logits / np.sqrt(8))
    mixed = (weights / weights.sum()) @ near
    np.testing.assert_allclose(updated[0, i], a + mixed @ params['value']['kernel'], atol=1e-5)


def test_approximate_search_finds_the_same_where_it_is_exact():
  pixels = jax.random.normal(jax.random.key(0), (2, 30, 4))
  anchors = jax.random.normal(jax.random.key(1), (2, 3, 4))
  np.testing.assert_array_equal(
    arc.nearest_bias(pixels, anchors, 6, 'approx'), arc.nearest_bias(pixels, anchors, 6, 'exact')
  )
  assert (arc.nearest_bias(pixels, anchors, 99, 'exact') == 0).all()


@pytest.mark.parametrize('anchors, classes', [(1, 1), (2, 3), (4, 1)])
def test_module_shapes_and_unaltered_patches(fill, anchors, classes):
  module = arc.AnchorRecalibration(num_classes=classes, anchors=anchors, neighbours=4)
  x = jax.random.normal(jax.random.key(0), (2, 8, 4, 16))
  out = jax.jit(module.apply)(fill(module, x), x)
  assert out.features.shape == x.shape
  assert out.scores.shape == (2, 8, 4, classes + 1)
  changed = np.asarray(out.features != x).any(-1)
  patches = np.asarray(out.ambiguous).repeat(2, 1).repeat(2, 2)
  assert not changed[~patches].any()


def test_patch_must_divide_the_grid():
  module = arc.AnchorRecalibration(patch=3)
  with pytest.raises(InputError, match='patch.*found 3.*8x8'):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
