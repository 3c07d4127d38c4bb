"""Documented peaks of TPU chips.

Source: the page of each generation under https://cloud.google.com/tpu/docs.
Peaks bound what a program can reach; they say nothing about what it does reach.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from echoforge_jax.errors import InputError

SOURCE = 'https://cloud.google.com/tpu/docs/'


@dataclasses.dataclass(frozen=True)
class Chip:
  """Documented peaks of one chip.

  Attributes:
    name: as in a topology's name.
    bf16_flops: operations per second in bfloat16, a multiply-add being two. JAX
      multiplies float32 in bfloat16 on a TPU, so it bounds both.
    hbm_bytes: memory; the pages' GB are GiB, as the compiler shows, which also
      knows how much of it a program gets.
    hbm_bandwidth: bytes per second.
    link_bandwidth: bytes per second of one link to a neighbour, one way.
    dimensions: of the network: a chip has two links in each.
    wraps_at: a dimension whose length is a multiple of this is a ring; any
      other is a line.
    source: page the figures are from.
    options: what the compiler must be told so that a chip is one device.
  """

  name: str
  bf16_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  link_bandwidth: float
  dimensions: int
  wraps_at: int
  source: str
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
    raise InputError(
      f'no chip {name!r} is known; choose one of {", ".join(CHIPS)}, as in --topology=v5e:4x4'
    )
  return CHIPS[name]


def exchange_bandwidth(chip: Chip, shape: Sequence[int]) -> float:
  """Returns bytes per second that one chip sends in a collective (ours).

  A ring sends both ways round, so a chip uses two links; in a line the end
  chips have but one, and they hold up the others. Dimensions work at once.

  Args:
    chip: of the slice.
    shape: chips along each dimension.

  Returns:
    Bytes per second, one way; 0 for a single chip.
  """
  links = sum(2 if n % chip.wraps_at == 0 else 1 for n in shape if n > 1)
  return links * chip.link_bandwidth
