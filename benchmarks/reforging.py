"""Whether labeled references improve pseudo-labels: the test that a way of reforging has to pass.

  python -m benchmarks.reforging --workdir=RUN [--data_dir=DATA] [--json=FILE]

RUN was trained with labels of some patients (`config.data.labeled_patients`). Of 100 training
patients whose labels it did not see, every clip gets pseudo-labels in several ways, each with
references of one kind after the other, where the way has that kind:

  labeled  frames of the patients whose labels the run saw, with their masks
  own      the unlabeled clip itself, with what the teacher believes (for `pose` the plain masks)
  other    frames of another unlabeled patient, with what the teacher believes of them
  noise    none: random features, or the clip's own pose, varied as labeled poses vary

A way that carries label information is better with `labeled` than with each of the others, and
than the teacher's plain masks. The ways:

  cpr      channel attention of `models.cpr`, for a run that trained it; references other than
           `own` are the mean of four clips of the same view, or of as many noises
  pose     `objectives.reforging.by_pose`: the clip is zoomed and shifted until the heart (ventricle
           and wall, as believed) has the size and place of the reference's, segmented there, and
           taken back; five references and the clip as it is, weighted by the teacher's confidence
  nearest  every token takes the mean mask of the 20 most similar tokens of the references (labeled
           alone), added to the plain logits

Dice of the first class in percent: mean over patients, and the difference to the plain masks with
its 95 % t interval over patients.
"""

import argparse
import dataclasses
import json
import pathlib

from absl import flags as absl_flags
import jax
import numpy as np

from benchmarks import pseudo_labels
from echoforge_jax.training.objectives import reforging

PATIENTS, REFERENCES, NEIGHBOURS = 100, 5, 20


def read_clips(config, data_dir: str):
  """Returns the labeled clips and those of the sample, as `pipeline.eval_clips` gives them."""
  clips, about, known, others = pseudo_labels.open_clips(config, data_dir)
  names = [clip['patient'] for clip in about]
  # The same sample whatever the seed, but for patients that are labeled.
  hidden = {names[n] for n in others}
  order = np.random.default_rng(1).permutation(sorted({*names}))
  sample = {*[p for p in order if p in hidden][:PATIENTS]}
  return [clips[int(n)] for n in known], [clips[int(n)] for n in others if names[n] in sample]


class Teacher:
  """A run's averaged network."""

  def __init__(self, workdir: pathlib.Path):
    from echoforge_jax.training import build, checkpoint

    self.config, variables, self.step = checkpoint.restore_for_inference(workdir)
    model = build.make_model(self.config)
    self.reforges = bool(self.config.model.get('use_cpr'))

    def trunk(module, video):
      memory = module.init_memory(len(video), video.shape[2:4])
      outputs, skip, _ = module._trunk(video, memory, False)
      return outputs['features'], skip, module._decode(outputs['features'], skip)

    def reforge(module, features, skip, reference):
      tokens = (-1, features.shape[2] * features.shape[3], features.shape[4])
      hat = module.cpr(reference.reshape(tokens), features.reshape(tokens))
      return module._decode(hat.reshape(features.shape), skip)

    def by_pose(video, goals):
      def predict(video):
        return model.apply(variables, video, train=False)['logits']

      return reforging.by_pose(predict, video, goals.swapaxes(0, 1))

    self._by_pose = jax.jit(by_pose)
    self._trunk = jax.jit(lambda video: model.apply(variables, video, method=trunk))
    self._reforge = jax.jit(lambda *given: model.apply(variables, *given, method=reforge))

  def run(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features, skips and logits of uint8 [N, T, S, S, 1]."""
    parts = [self._trunk(part / np.float32(255)) for part in _batches(video)]
    return tuple(np.concatenate(kind)[: len(video)] for kind in zip(*parts))

  def reforge(self, *given: np.ndarray) -> np.ndarray:
    """Returns logits of features [N, T, h, w, C] and skips, with references of the same shape."""
    parts = [self._reforge(*part) for part in zip(*map(_batches, given))]
    return np.concatenate(parts)[: len(given[0])]

  def by_pose(self, video: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Returns logits of uint8 [N, T, S, S, 1] that is seen in poses [N, R, 3] as well."""
    parts = [self._by_pose(x / np.float32(255), g) for x, g in zip(*map(_batches, (video, goals)))]
    p = np.clip(np.concatenate(parts)[: len(video)], 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def _batches(x: np.ndarray, size: int = 20) -> list[np.ndarray]:
  """Cuts into parts of one size; the last repeats clips."""
  padded = np.concatenate([x, np.resize(x, (-len(x) % size, *x.shape[1:]))])
  return np.split(padded, len(padded) // size)


def masks_of(logits: np.ndarray) -> np.ndarray:
  """Returns class ids [N, T, S, S]."""
  return np.where(logits.max(-1) >= 0, logits.argmax(-1) + 1, 0)


def dice_of(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Returns the first class's Dice of every frame [N, T]."""
  first, second = masks == 1, truth == 1
  sizes = first.sum((2, 3)) + second.sum((2, 3))
  return np.where(sizes > 0, 2 * (first & second).sum((2, 3)) / np.maximum(sizes, 1), 1.0)


def cpr(teacher, clips, references, rng):
  """Yields (kind of reference, logits)."""
  features, skips, _ = teacher.run(clips.video)
  same = [[r for r in references if r['view'] == view] for view in clips.views]
  chosen = [rng.choice(len(group), min(4, len(group)), False) for group in same]
  known = teacher.run(np.stack([r['video'] for r in references]))[0].mean(1, keepdims=True)
  numbers = {id(r): n for n, r in enumerate(references)}
  picks = [[numbers[id(group[int(i)])] for i in part] for group, part in zip(same, chosen)]
  others = [rng.choice(alike(clips, n), 4, False) for n in range(len(features))]
  frames = features.mean(1, keepdims=True)
  noise = rng.normal(features.mean(), features.std(), (4, *features.shape)).mean(0)
  for kind, reference in (
    ('labeled', np.stack([known[part].mean(0) for part in picks])),
    ('own', features),
    ('other', np.stack([frames[part].mean(0) for part in others])),
    ('noise', noise.astype(np.float32)),
  ):
    yield kind, teacher.reforge(features, skips, np.broadcast_to(reference, features.shape))


def alike(clips, n: int) -> list[int]:
  """Returns the clips of the same view of other patients."""
  pairs = enumerate(zip(clips.views, clips.patients))
  return [m for m, (v, p) in pairs if v == clips.views[n] and p != clips.patients[n]]


def pose(teacher, clips, references, rng):
  """Yields (kind of reference, logits)."""
  p = 1 / (1 + np.exp(-teacher.run(clips.video)[2]))
  poses = np.asarray(reforging.believed_pose(p))
  masks, every = np.stack([r['masks'] for r in references]), np.ones((len(references), 2), bool)
  labeled = np.asarray(reforging.labeled_pose(masks, every))
  views = np.array([r['view'] for r in references])
  goals = {kind: [] for kind in ('labeled', 'other', 'noise')}
  for n, view in enumerate(clips.views):
    known = labeled[views == view]
    goals['labeled'].append(rng.permutation(known)[:REFERENCES])
    goals['other'].append(poses[rng.choice(alike(clips, n), REFERENCES, False)])
    goals['noise'].append(poses[n] + known.std(0) * rng.normal(size=(REFERENCES, 3)))
  for kind, goal in goals.items():
    yield kind, teacher.by_pose(clips.video, np.stack(goal).astype(np.float32))


def nearest(teacher, clips, references, rng):
  """Yields (kind of reference, logits)."""
  del rng
  features, _, plain = teacher.run(clips.video)
  grid = features.shape[2]
  known, _, _ = teacher.run(np.stack([r['video'] for r in references]))
  masks = np.stack([r['masks'] for r in references])
  cell = masks.shape[2] // grid
  classes = np.arange(1, plain.shape[-1] + 1)
  labels = (masks[..., None] == classes).reshape(*masks.shape[:2], grid, cell, grid, cell, -1)
  labels = labels.mean((3, 5)).reshape(-1, len(classes)).astype(np.float32)
  tokens = _unit(known.reshape(-1, known.shape[-1]))
  votes = []
  for clip in features:
    near = np.argpartition(-_unit(clip.reshape(-1, clip.shape[-1])) @ tokens.T, NEIGHBOURS, 1)
    votes.append(labels[near[:, :NEIGHBOURS]].mean(1).reshape(*clip.shape[:3], -1))
  share = np.clip(np.repeat(np.repeat(np.stack(votes), cell, 2), cell, 3), 0.02, 0.98)
  yield 'labeled', plain + 0.5 * (np.log(share) - np.log1p(-share))


def _unit(x: np.ndarray) -> np.ndarray:
  x = x - x.mean(0)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Clips:
  """The sample, stacked."""

  video: np.ndarray  # uint8 [N, T, S, S, 1].
  truth: np.ndarray  # uint8 [N, T, S, S].
  views: list[str]
  patients: list[str]


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', required=True, type=pathlib.Path)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  absl_flags.FLAGS.mark_as_parsed()  # Grain reads them.
  from echoforge_jax.metrics.statistics import t_interval

  teacher = Teacher(args.workdir)
  references, sample = read_clips(teacher.config, args.data_dir)
  clips = Clips(
    *(np.stack([clip[name] for clip in sample]) for name in ('video', 'masks')),
    *([clip[name] for clip in sample] for name in ('view', 'patient')),
  )
  names = np.array(clips.patients)

  def per_patient(logits):
    frames = dice_of(masks_of(logits), clips.truth).mean(1)
    return 100 * np.array([frames[names == name].mean() for name in sorted({*names})])

  plain = per_patient(teacher.run(clips.video)[2])
  rows = [{'way': 'plain', 'reference': '', 'dice': plain.mean()}]
  ways = [cpr] * teacher.reforges + [pose, nearest]
  for way in ways:
    for kind, logits in way(teacher, clips, references, np.random.default_rng(0)):
      dice = per_patient(logits)
      low, high = t_interval(dice - plain)
      row = {'way': way.__name__, 'reference': kind, 'dice': dice.mean()}
      rows.append(row | {'difference': (dice - plain).mean(), 'ci95': [low, high]})
  print(
    f'{args.workdir.name}, step {teacher.step}, {len(plain)} patients, {len(clips.video)} clips'
  )
  for row in rows:
    text = f'{row["way"]:8} {row["reference"]:8} {row["dice"]:6.2f}'
    if 'ci95' in row:
      text += f'  {row["difference"]:+.2f} [{row["ci95"][0]:+.2f}, {row["ci95"][1]:+.2f}]'
    print(text)
  if args.json:
    seed = int(teacher.config.data.label_seed)
    text = json.dumps({'objective': teacher.config.objective.name, 'seed': seed, 'rows': rows})
    args.json.write_text(text + '\n')


if __name__ == '__main__':
  main()
