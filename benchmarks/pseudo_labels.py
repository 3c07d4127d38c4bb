"""How good and how confident a run's pseudo-labels are, against the truth.

  python benchmarks/pseudo_labels.py --workdir=RUN [--data_dir=DATA]

Batches as in training, half of them labeled clips (ED and ES) and half clips
without any label, of the training split; only frames without a label count.
Prints, for the teacher's own masks and those reforged by CPR, Dice, area over
true area, and how much of either side of the mask is confident.
"""

import argparse
import dataclasses

from absl import flags as absl_flags
import jax
import numpy as np

BATCHES, CLIPS = 8, 4
THRESHOLDS = (0.95, 0.85, 0.75)


def batches(config, data_dir: str):
  """Yields (video [2 CLIPS, T, S, S, 1], truth, labeled) of a run's data."""
  from echoforge_jax.data import pipeline, prepared, selection
  from echoforge_jax.training import build

  data = config.data
  spec = build.data_spec(config)
  if data_dir:
    spec = dataclasses.replace(spec, data_dir=data_dir)
  source = prepared.load_split(
    spec.data_dir, data.dataset, 'train', data.image_size, split_scheme=data.split_scheme
  )
  known, unknown = selection.divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  clips = pipeline.eval_clips(spec, 'train')
  rng = np.random.default_rng(0)
  for _ in range(BATCHES):
    chosen = [
      clips[int(i)] for i in (*rng.choice(known, CLIPS, False), *rng.choice(unknown, CLIPS, False))
    ]
    labeled = np.zeros((2 * CLIPS, data.num_frames), bool)
    labeled[:CLIPS, [0, -1]] = True
    yield (
      np.stack([c['video'] for c in chosen]).astype(np.float32) / 255,
      np.stack([c['masks'] for c in chosen]) == 1,
      labeled,
    )


def dice(first: np.ndarray, second: np.ndarray) -> float:
  """Unsmoothed Dice of two masks; 1 where both are empty."""
  sizes = first.sum() + second.sum()
  return 2 * (first & second).sum() / sizes if sizes else 1.0


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--data_dir', default='')
  args = parser.parse_args()
  absl_flags.FLAGS.mark_as_parsed()  # Grain reads them.
  from echoforge_jax.training import build, checkpoint

  config, variables, step = checkpoint.restore_for_inference(args.workdir)
  model = build.make_model(config)
  predict = jax.jit(
    lambda video, labeled: model.apply(variables, video, labeled=labeled, reforge=True)
  )
  rows = {}
  for video, truth, labeled in batches(config, args.data_dir):
    outputs = predict(video, labeled)
    for kind, key in (('plain', 'logits'), ('reforged', 'reforged_logits')):
      p = 1 / (1 + np.exp(-np.asarray(outputs[key])[..., 0]))
      for b, t in np.argwhere(~labeled):
        row = rows.setdefault((kind, 'of labeled' if b < CLIPS else 'without a label'), [])
        row.append((p[b, t], truth[b, t]))
  print(f'{args.workdir}, step {step}')
  for (kind, clips), pairs in rows.items():
    p, truth = (np.stack(part) for part in zip(*pairs))
    mask = p >= 0.5
    print(
      f'{kind} masks, clips {clips}: Dice '
      f'{np.mean([dice(m, t) for m, t in zip(mask, truth)]):.3f}, area '
      f'{mask.sum() / truth.sum():.2f} of the true one'
    )
    for tau in THRESHOLDS:
      sure = np.maximum(p, 1 - p) >= tau
      inside = sure[mask].mean() if mask.any() else float('nan')
      print(
        f'  confident at {tau}: {inside:.3f} of the inside, {sure[~mask].mean():.3f} of the outside'
      )


if __name__ == '__main__':
  main()
