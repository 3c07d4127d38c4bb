"""A backbone of your own for EchoForge: plain convolutions, four maps.

    echoforge train --config=phantom_lite --workdir=RUN --config.data.data_dir=DATA \\
        --config.model.backbone=examples.own_backbone:Plain

Of the fields `norm`, `remat` and `dtype`, those that the class has are set from the config.
`evaluate`, `segment` and `export` import the class again: keep it where they find it.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp


class Plain(nn.Module):
  """Five convolutions of stride 2."""

  width: int = 8
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    """Maps frames [N, H, W, 1] to maps [N, H / s, W / s, C] at the strides s = 4, 8, 16, 32."""
    maps = []
    for stage in range(5):
      features = self.width * 2 ** min(stage, 3)
      x = nn.Conv(features, (3, 3), strides=2, dtype=self.dtype, name=f'conv{stage}')(x)
      x = nn.relu(nn.GroupNorm(num_groups=4, dtype=self.dtype, name=f'norm{stage}')(x))
      maps.append(x)
    return tuple(maps[1:])
