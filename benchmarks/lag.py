"""What a fixed lag, and bfloat16, do to masks of whole clips.

  python benchmarks/lag.py --checkpoint=RUN --raw=RAW [--patients=20]
      [--json=FILE]

RAW is in the CAMUS layout (`echoforge phantom` writes it); the first test
patients, both views, ED to ES, the whole image as the sector. For each lag:
Dice of lv over all frames, at ED and at ES, roughness of the area curve
(`metrics.temporal`), and the same for the truth. For bfloat16: Dice, and
Dice against the float32 masks. Means over patients with 95 % intervals.
"""

import argparse
import collections
import json
import pathlib

import jax.numpy as jnp
import numpy as np

from echoforge_jax import inference
from echoforge_jax.formats import camus
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.metrics import statistics, temporal

LAGS = (0, 1, 2, 3, 5)


def dice(first: np.ndarray, second: np.ndarray) -> float:
  """Unsmoothed Dice of two masks; 1 where both are empty."""
  sizes = first.sum() + second.sum()
  return float(2 * (first & second).sum() / sizes) if sizes else 1.0


def over_frames(found: np.ndarray, truth: np.ndarray) -> list[float]:
  """Dice of every frame."""
  return [dice(a, b) for a, b in zip(found, truth)]


def measure(segmenter, rounded, clip) -> dict[str, float]:
  """All numbers of one clip."""

  def lv(model, lag):
    return (
      model.segment(
        clip.frames,
        clip.spacing_mm,
        fps=clip.fps,
        lag=lag,
        sector=whole_image(clip.frames.shape[1:]),
      )
      == 1
    )

  truth = clip.masks == 1
  values = {'truth roughness': temporal.roughness(truth.sum((1, 2)))}
  plain = lv(segmenter, 0)
  for lag in LAGS:
    masks = lv(segmenter, lag) if lag else plain
    scores = over_frames(masks, truth)
    values |= {
      f'lag {lag} dice': float(np.mean(scores)),
      f'lag {lag} dice ED': scores[0],
      f'lag {lag} dice ES': scores[-1],
      f'lag {lag} roughness': temporal.roughness(masks.sum((1, 2))),
      f'lag {lag} dice gained': float(np.mean(scores) - np.mean(over_frames(plain, truth))),
    }
  masks = lv(rounded, 0)
  against = over_frames(masks, plain)
  return values | {
    'bfloat16 dice gained': float(
      np.mean(over_frames(masks, truth)) - np.mean(over_frames(plain, truth))
    ),
    'bfloat16 dice against float32': float(np.mean(against)),
    'bfloat16 worst frame against float32': min(against),
  }


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--checkpoint', required=True)
  parser.add_argument('--raw', required=True, type=pathlib.Path)
  parser.add_argument('--patients', type=int, default=20)
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  segmenter = inference.load(args.checkpoint)
  rounded = inference.Segmenter(
    segmenter.model.clone(dtype=jnp.bfloat16),
    segmenter.variables,
    classes=segmenter.classes,
    image_size=segmenter.image_size,
  )
  split = args.raw / 'database_split' / 'subgroup_testing.txt'
  table = collections.defaultdict(list)
  for patient in split.read_text().split()[: args.patients]:
    clips = [
      measure(segmenter, rounded, camus.read_clip(args.raw, patient, view))
      for view in ('2CH', '4CH')
    ]
    for name in clips[0]:
      table[name].append(float(np.mean([clip[name] for clip in clips])))
  found = {}
  for name, values in table.items():
    estimate = statistics.estimate(values)
    found[name] = {'mean': estimate.mean, 'ci95': list(estimate.ci95), 'lowest': min(values)}
    print(f'{name:<40}{estimate.mean:8.4f} [{estimate.ci95[0]:.4f}, {estimate.ci95[1]:.4f}]')
  if args.json:
    args.json.write_text(
      json.dumps({'patients': len(values), 'model': segmenter.receipt, 'found': found}) + '\n'
    )


if __name__ == '__main__':
  main()
