import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.models import memory, tsf


def test_windows_hold_the_frame_and_those_before_it():
  tokens = jnp.arange(1.0, 7.0).reshape(1, 6, 1, 1)
  context, valid, after = memory.windows(memory.TokenMemory.empty(1, 2, 1, 1), tokens)
  np.testing.assert_array_equal(
    context[0, :, :, 0, 0], [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
  )
  np.testing.assert_array_equal(valid[0], context[0, :, :, 0, 0] > 0)
  np.testing.assert_array_equal(after.tokens[0, :, 0, 0], [5, 6])
  assert after.valid.all()


def test_stream_sees_the_same_windows():
  tokens = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
  whole, valid, _ = memory.windows(memory.TokenMemory.empty(2, 3, 3, 4), tokens)
  state = memory.TokenMemory.empty(2, 3, 3, 4)
  for t in range(5):
    context, known, state = memory.windows(state, tokens[:, t : t + 1])
    np.testing.assert_array_equal(context[:, 0], whole[:, t])
    np.testing.assert_array_equal(known[:, 0], valid[:, t])


def test_memory_is_a_few_kilobytes():
  state = memory.TokenMemory.empty(1, 4, 2, 256)
  assert sum(x.nbytes for x in jax.tree.leaves(state)) < 10_000


def test_semantic_tokens_are_masked_means():
  rng = np.random.default_rng(0)
  features, masks = rng.random((2, 6, 3)), rng.random((2, 6, 2))
  masks[1, :, 1] = 0.0  # A class that is nowhere to be seen.
  tokens = tsf.semantic_tokens(jnp.asarray(features, jnp.float32), jnp.asarray(masks, jnp.float32))
  expected = np.einsum('bpn,bpc->bnc', masks, features)
  expected /= masks.sum(1)[..., None] + 1e-6
  np.testing.assert_allclose(tokens, expected, atol=1e-5)
  assert (tokens[1, 1] == 0).all()
