"""How far a mask is to be trusted: its expected Dice, and a temperature (ours).

If probabilities are calibrated, a frame's Dice with the unknown truth is, in
expectation and nearly, 2 sum_mask p / (sum_mask 1 + sum p) over its pixels.
Networks are surer than they are right: their logits are divided by a
temperature, fitted on phantoms that training has not seen (Guo et al. 2017).
On images unlike all phantoms a network can be sure and wrong.
"""

from collections.abc import Iterable, Mapping
import dataclasses

import numpy as np
from scipy import optimize, special

from echoforge_jax.clip import IGNORE
from echoforge_jax.errors import InputError
from echoforge_jax.metrics import calibration as reliability

# A frame of this mean Dice is of no use for volumes (ours).
POOR = 0.85
# A frame below this Dice must be flagged; of the others at most this share may be (ours).
USELESS, _FALSE_ALARMS = 0.6, 0.15
_TEMPERATURES = (0.25, 8.0)
# Below it pixels count as certainly outside: the many far away would add up.
_NOTHING = 0.05
_FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Scaling:
  """Turns logits into calibrated probabilities."""

  temperature: float = 1.0  # Logits are divided by it.
  low: float = POOR  # Expected Dice below which a frame is doubtful.
  facts: Mapping = dataclasses.field(default_factory=dict)  # Of `fit`; or empty.

  @classmethod
  def from_facts(cls, facts: Mapping | None) -> 'Scaling':
    """Returns the scaling that `fit` found; a temperature of 1 for None or {}."""
    if not facts:
      return cls()
    return cls(float(facts['temperature']), float(facts['low']), dict(facts))

  def probability(self, logits: np.ndarray) -> np.ndarray:
    """Returns probabilities, float32 of the logits' shape."""
    return special.expit(np.asarray(logits, np.float32) / np.float32(self.temperature))


def expected_dice(probability: np.ndarray) -> np.ndarray:
  """Returns the Dice of the mask p > 1/2 with a truth drawn from p.

  float [..., H, W] -> float64 [...] in [0, 1]; 0 for an empty mask.
  """
  p = np.asarray(probability, np.float64)
  p = np.where(p < _NOTHING, 0.0, p)
  mask = p > 0.5
  overlap = 2 * (p * mask).sum(axis=(-2, -1))
  both = mask.sum(axis=(-2, -1)) + p.sum(axis=(-2, -1))
  return overlap / np.maximum(both, 1e-9)


def fit(clips: Iterable[tuple[np.ndarray, np.ndarray]], *, seed: int = 0) -> dict:
  """Fits a temperature and a threshold on clips with truth.

  Every second clip is fitted on; the figures are of the others.

  Args:
    clips: of (logits float32 [T, S, S], masks uint8 [T, S, S]: 1 the class,
      `IGNORE` where unknown).
    seed: of the bootstrap.
  """
  clips = [clip for clip in clips if _shown(clip[1]).any()]
  if len(clips) < _FEWEST:
    raise InputError(
      f'--calibrate: found {len(clips)} validation clips that show the class, wanted at least '
      f'{_FEWEST}'
    )
  fitted, held = clips[0::2], clips[1::2]
  scaling = Scaling(_fit_temperature(fitted))
  low = _threshold(*_frames(fitted, scaling))
  by_clip = [_frames([clip], scaling) for clip in held]
  expected, dice = (np.concatenate(parts) for parts in zip(*by_clip))
  return {
    'temperature': scaling.temperature,
    'low': low,
    'n_clips': len(held),
    'n_frames': len(dice),
    'ece': {'before': _ece(held, Scaling()), 'after': _ece(held, scaling)},
    'frame_dice': float(dice.mean()),
    'frame_expected_dice': float(expected.mean()),
    'correlation': float(np.corrcoef(expected, dice)[0, 1]),
    'share_low': float((expected < low).mean()),
    'dice_low': _mean(dice[expected < low]),
    'dice_rest': _mean(dice[expected >= low]),
    # The risk is 1 - Dice of a clip.
    'risk_coverage': reliability.risk_coverage(
      np.array([e.mean() for e, _ in by_clip]),
      np.array([1 - d.mean() for _, d in by_clip]),
      seed=seed,
      resamples=2000,
    ),
  }


def _shown(masks: np.ndarray) -> np.ndarray:
  """Returns the labeled frames with the class, bool [T]."""
  return (masks == 1).any((1, 2)) & (masks != IGNORE).all((1, 2))


def _mean(values: np.ndarray) -> float | None:
  return float(values.mean()) if len(values) else None


def _band(logits, masks) -> np.ndarray:
  return reliability.boundary_band(masks == 1, logits > 0) & (masks != IGNORE)


def _fit_temperature(clips) -> float:
  """Returns the temperature of the smallest cross-entropy near outlines."""
  bands = [_band(*clip) for clip in clips]
  logits = np.concatenate([z[band].astype(np.float64) for (z, _), band in zip(clips, bands)])
  truth = np.concatenate([(masks[band] == 1) * 1.0 for (_, masks), band in zip(clips, bands)])

  def cost(log_temperature):
    z = logits / np.exp(log_temperature)
    return float(np.mean(np.logaddexp(0, z) - truth * z))

  found = optimize.minimize_scalar(cost, bounds=np.log(_TEMPERATURES), method='bounded')
  return float(np.exp(found.x))


def _ece(clips, scaling: Scaling):
  bins = [
    reliability.count_bins(scaling.probability(z), masks == 1, where=_band(z, masks))
    for z, masks in clips
  ]
  return reliability.ece(sum(bins[1:], bins[0]))


def _frames(clips, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
  """Returns expected and true Dice of every labeled frame with the class."""
  expected, dice = [], []
  for logits, masks in clips:
    shown = _shown(masks)
    p, truth = scaling.probability(logits[shown]), masks[shown] == 1
    expected.append(expected_dice(p))
    dice.append(2 * ((p > 0.5) & truth).sum((1, 2)) / ((p > 0.5).sum((1, 2)) + truth.sum((1, 2))))
  return np.concatenate(expected), np.concatenate(dice)


def _threshold(expected: np.ndarray, dice: np.ndarray) -> float:
  """Returns the largest confidence around which a tenth of the frames averages below `POOR`.

  Where many do, it is the one that flags `_FALSE_ALARMS` of the frames that are not useless; where
  none do, the least of all, so that only frames unlike these are flagged.
  """
  order = np.argsort(expected)
  width = max(len(order) // 10, 1)
  smooth = np.convolve(dice[order], np.full(width, 1 / width), 'valid')
  poor = np.flatnonzero(smooth < POOR)
  if not len(poor):
    return float(expected.min())
  most = np.quantile(expected[dice >= USELESS], _FALSE_ALARMS) if (dice >= USELESS).any() else 1.0
  return float(min(expected[order[poor[-1] + width // 2]], most))
