"""Documented peaks of TPU chips, which bound what a program can reach."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from echoforge_jax.errors import InputError

SOURCE = 'https://cloud.google.com/tpu/docs/'


@dataclasses.dataclass(frozen=True)
class Chip:
  """Documented peaks of one chip; bandwidths in bytes per second."""

  name: str
  # A multiply-add is two. JAX multiplies float32 in bfloat16 on a TPU, so it bounds both.
  bf16_flops: float
  hbm_bytes: int  # The pages' GB are GiB, as the compiler shows, which grants a program less.
  hbm_bandwidth: float
  link_bandwidth: float  # Of one link to a neighbour, one way; two links in each dimension.
  dimensions: int
  wraps_at: int  # A dimension whose length is a multiple of this is a ring, any other a line.
  source: str
  # What the compiler must be told so that a chip is one device.
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# One way a chip sends over all links: half of the documented bidirectional
# bandwidth; v4's page has none, so a pod's all-reduce bandwidth over its 4096
# chips, which is the same quantity on the other pages.
_V4_LINKS = 1.1e15 / 4096
_GIB = 2**30
_V4_PAGE, _V5P_PAGE = SOURCE + 'v4', SOURCE + 'v5p'
_CORES = {'chip_config_name': 'megacore'}
CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 275e12, 32 * _GIB, 1.2e12, _V4_LINKS / 6, 3, 4, _V4_PAGE, _CORES),
    Chip('v5e', 197e12, 16 * _GIB, 819e9, 200e9 / 4, 2, 16, SOURCE + 'v5e'),
    Chip('v5p', 459e12, 95 * _GIB, 2765e9, 600e9 / 6, 3, 4, _V5P_PAGE, _CORES),
    Chip('v6e', 918e12, 32 * _GIB, 1638e9, 400e9 / 4, 2, 16, SOURCE + 'v6e'),
  )
}


def get_chip(name: str) -> Chip:
  """Returns the documented peaks of a chip, such as 'v5e'."""
  if name not in CHIPS:
    known = ', '.join(CHIPS)
    raise InputError(f'no chip {name!r} is known; choose one of {known}, as in --topology=v5e:4x4')
  return CHIPS[name]


def exchange_bandwidth(chip: Chip, shape: Sequence[int]) -> float:
  """Returns bytes per second that one chip of a slice sends in a collective (ours).

  A ring sends both ways round, so a chip uses two links; in a line the end chips have only one
  and hold up the others. Dimensions work at the same time. 0 for a single chip.
  """
  links = sum(2 if n % chip.wraps_at == 0 else 1 for n in shape if n > 1)
  return links * chip.link_bandwidth
