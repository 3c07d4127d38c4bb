"""Evaluation protocols, as data: what is sampled, scored and pooled."""

import dataclasses

from echoforge_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to score a dataset; two numbers compare only under the same one.

  Attributes:
    name: what `--protocol` and metrics.json call it.
    sampler: 'linspace': rint(linspace(ED, ES, num_frames)).
    num_frames: frames a clip.
    threshold: a class is predicted where its probability is above this.
    score: 'ends' scores the first (ED) and last (ES) sampled frame, 'all'
      every sampled frame.
    pooling: 'clip_patient': the mean of a clip's scored frames, then of a
      patient's clips, then of the patients.
    ef_method: 'biplane': Simpson's 20 discs from 2CH and 4CH at the
      protocol's ED and ES frames.
    metric_spacing: True measures distances in mm, False in pixels.
    description: one line for reports.
  """
  name: str
  score: str
  description: str
  sampler: str = 'linspace'
  num_frames: int = 10
  threshold: float = 0.5
  pooling: str = 'clip_patient'
  ef_method: str = 'biplane'
  metric_spacing: bool = True

  def scored_frames(self, count: int) -> list[int]:
    """Indices of the frames to score.

    Args:
      count: frames in the clip.

    Returns:
      Increasing indices.
    """
    if self.score == 'ends':
      return sorted({0, count - 1})
    return list(range(count))


PROTOCOLS = {
    p.name: p for p in (
        Protocol('camus_semi', score='ends',
                 description='10 frames from ED to ES, scored at ED and ES'),
        Protocol('camus_full', score='all',
                 description='10 frames from ED to ES, all scored'),
    )
}


def get_protocol(name: str) -> Protocol:
  """The protocol of that name.

  Args:
    name: a key of `PROTOCOLS`.

  Returns:
    The protocol.

  Raises:
    InputError: if there is none of that name.
  """
  if name not in PROTOCOLS:
    raise InputError(f'protocol: found {name!r}, wanted one of '
                     f'{", ".join(PROTOCOLS)}; choose one with --protocol')
  return PROTOCOLS[name]
