"""What a run learns from unlabeled frames, over its training, against the truth.

  python -m benchmarks.pseudo_labels --workdir=RUN [--data_dir=DATA] [--figure=FILE.png]

Asks the run's own objective what its teacher says of clips without a label, at every checkpoint
that is there (train with --config.keep_checkpoints=20 --config.checkpoint_every=50, say). The clips
are those of training patients whose labels the run did not see, as they are, beside labeled ones
as in training. Of the first class, and by the weights that pixels have in the loss, as
shares of the largest (hard pseudo-labels count or do not):

  Dice       of the pseudo-labels, whatever their weights
  precision  of what is learned to be inside: the share of its weight that is truly inside
  recall     of the true inside: the share that is learned to be inside, each pixel by its weight
  wrong      the share of the pixels with a wrong pseudo-label that count (by weight)
  clips      Spearman's rank correlation of a clip's mean weight inside and its Dice
"""

import argparse
import dataclasses
import math
import pathlib

from absl import flags as absl_flags
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

BATCHES, CLIPS = 16, 4
COLUMNS = ('Dice', 'precision', 'recall', 'wrong', 'clips')


def open_clips(config, data_dir: str):
  """Returns a run's training clips, what they are, the numbers of labeled ones and of others.

  What they are is a dict each, with patient and view.
  """
  from echoforge_jax.data import pipeline, prepared, selection
  from echoforge_jax.training import build

  spec = build.data_spec(config)
  if data_dir:
    spec = dataclasses.replace(spec, data_dir=data_dir)
  source = prepared.load_split(
    spec.data_dir, spec.dataset, 'train', spec.image_size, split_scheme=spec.split_scheme
  )
  divided = selection.divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  return pipeline.eval_clips(spec, 'train'), source.clips, *divided


def batches(config, data_dir: str):
  """Yields batches as an objective reads them, and the truth of their clips without a label."""
  from echoforge_jax.clip import IGNORE

  clips, _, known, others = open_clips(config, data_dir)
  rng = np.random.default_rng(0)
  # Both kinds take turns, as in training.
  sizes = np.array([config.batch_size, max(config.unlabeled_batch_size, 1)])
  run = np.repeat([True, False], sizes // math.gcd(*sizes))
  hidden = ~np.tile(run, max(1, CLIPS // (~run).sum()))
  count = hidden.sum()
  if len(others) < count:
    raise SystemExit('the run hid no labels: train with --config.data.labeled_patients=10, say')
  others = rng.permutation(others)[: CLIPS * BATCHES]
  others = others[: len(others) // count * count]
  for part in others.reshape(-1, count):
    numbers = np.empty(len(hidden), int)
    numbers[hidden], numbers[~hidden] = part, rng.choice(known, (~hidden).sum())
    chosen = [clips[int(n)] for n in numbers]
    video = np.stack([clip['video'] for clip in chosen])
    truth = np.stack([clip['masks'] for clip in chosen])
    labeled = np.zeros(truth.shape[:2], bool)
    labeled[np.ix_(~hidden, [0, -1])] = True
    masks = np.where(labeled[..., None, None], truth, IGNORE).astype(np.uint8)
    views = {'video_weak': video, 'video_strong': video}
    yield {**views, 'masks': masks, 'labeled': labeled}, truth == 1


def taught(objective, config, values, outputs, batch):
  """Returns probabilities and weights [B, T, H, W] of the first class that are learned from."""
  from echoforge_jax.training import losses
  from echoforge_jax.training.objectives import base

  if isinstance(outputs, base.SoftLabels):
    return outputs.targets[..., 0], outputs.weights[..., 0]
  p = jax.nn.sigmoid(outputs.astype(jnp.float32))
  if config.objective.name == 'mean_teacher':  # It has no threshold.
    return p[..., 0], jnp.ones_like(p[..., 0])
  sure = jnp.maximum(p, 1 - p) >= values.threshold
  weights = losses.balanced_weights((p >= 0.5).astype(jnp.float32), sure)
  return p[..., 0], (weights[..., 0] > 0).astype(jnp.float32)


def measure(pairs) -> dict[str, float]:
  """Returns `COLUMNS` of (probabilities, weights, truth) of clips [T, H, W]."""
  sums, dices, confidences = np.zeros(6), [], []
  for p, weight, truth in pairs:
    inside = p >= 0.5
    sizes = inside.sum() + truth.sum()
    dices.append(2 * (inside & truth).sum() / sizes if sizes else 1.0)
    learned, wrong = weight * inside, inside != truth
    confidences.append(learned.sum() / max(inside.sum(), 1))
    good = (learned * truth).sum()
    sums += (good, learned.sum(), good, truth.sum(), (weight * wrong).sum(), wrong.sum())
  shares = sums[::2] / np.maximum(sums[1::2], 1e-9)
  varied = np.ptp(confidences) > 0
  rank = stats.spearmanr(confidences, dices).statistic if varied else np.nan
  return dict(zip(COLUMNS, (np.mean(dices), *shares, rank)))


def over_training(workdir: pathlib.Path, data_dir: str) -> dict[int, dict[str, float]]:
  """Returns the measures of every checkpoint, by its step."""
  import orbax.checkpoint as ocp

  from echoforge_jax.training import build, checkpoint, steps
  from echoforge_jax.training import workdir as workdirs

  config = workdirs.read_config(workdir)
  objective, schedule = build.make_objective(config), build.make_schedule(config)
  if objective.teacher is None:
    raise SystemExit(f'{workdir}: the objective {config.objective.name!r} learns from labels alone')
  model = build.make_model(config)

  @jax.jit
  def ask(variables, extra, values, batch):
    def apply(video, **inputs):
      return model.apply(variables, steps.to_float(video), train=False, **inputs)

    outputs = objective.teacher(apply, batch, jax.random.key(0), extra)
    return taught(objective, config, values, outputs, batch)

  data, found = list(batches(config, data_dir)), {}
  for folder in workdirs.step_folders(workdir):
    if not workdirs.is_complete(folder):
      continue
    _, variables, step = checkpoint.restore_for_inference(workdir, step=int(folder.name))
    saved = ocp.StandardCheckpointHandler().restore(folder / 'training')
    values = schedule(jnp.int32(step))
    pairs = []
    for batch, truth in data:
      p, weights = ask(variables, saved.get('extra', {}), values, batch)
      rows = ~batch['labeled'].any(1)
      pairs += zip(np.asarray(p)[rows], np.asarray(weights)[rows], truth[rows])
    most = max(weights.max() for _, weights, _ in pairs) or 1.0
    found[step] = measure([(p, weights / most, truth) for p, weights, truth in pairs])
  return dict(sorted(found.items()))


def draw(found: dict[int, dict[str, float]], title: str, path: str) -> None:
  """Draws the measures over the steps."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(6, 3.5), layout='constrained')
  for column in COLUMNS:
    axis.plot(list(found), [row[column] for row in found.values()], 'o-', ms=3, label=column)
  axis.set(xlabel='update', ylim=(0, 1), title=title)
  axis.legend(ncols=len(COLUMNS), fontsize=8)
  figure.savefig(path, dpi=150)


def main() -> None:
  """Prints the table; draws it where asked to."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', required=True, type=pathlib.Path)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--figure', default='')
  args = parser.parse_args()
  absl_flags.FLAGS.mark_as_parsed()  # Grain reads them.
  found = over_training(args.workdir, args.data_dir)
  print('step  ' + '  '.join(f'{column:>9}' for column in COLUMNS))
  for step, row in found.items():
    print(f'{step:>5}' + '  '.join(f'{row[column]:10.3f}' for column in COLUMNS))
  if args.figure:
    draw(found, args.workdir.name, args.figure)


if __name__ == '__main__':
  main()
