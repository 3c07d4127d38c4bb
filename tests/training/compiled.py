"""The training step as the loop compiles it."""

import jax

from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, steps


def compile_step(config, model, mesh, batch):
  """The step as the loop compiles it, and shapes and places of its state."""
  parts = build.make_parts(config, model, mesh)
  shapes = jax.eval_shape(parts.create_state)
  state = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    mesh_lib.state_sharding(shapes, mesh),
  )
  places = jax.tree.map(lambda x: x.sharding, state)
  split = mesh_lib.batch_sharding(mesh)
  batch = mesh_lib.put_batch({key: batch[key] for key in parts.batch_keys}, split)
  step = steps.jit_train_step(parts.train_step, places, split).lower(state, batch).compile()
  return parts, state, step
