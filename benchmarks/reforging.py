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
  pose     the clip is zoomed and shifted until the heart (ventricle and wall, as believed) has the
           size and place of the reference's, segmented there, and taken back; five references and
           the clip as it is, weighted by the teacher's own confidence
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
import cv2
import jax
import numpy as np

PATIENTS, REFERENCES, NEIGHBOURS = 100, 5, 20
SHARPNESS = 200.0  # Weights of poses are exp(SHARPNESS expected Dice).
LARGEST_ZOOM = 0.4  # As a logarithm.


def read_clips(config, data_dir: str):
  """Returns the labeled clips and those of the sample, as `pipeline.eval_clips` gives them."""
  from echoforge_jax.data import pipeline, prepared, selection
  from echoforge_jax.training import build

  spec = build.data_spec(config)
  if data_dir:
    spec = dataclasses.replace(spec, data_dir=data_dir)
  source = prepared.load_split(
    spec.data_dir, spec.dataset, 'train', spec.image_size, split_scheme=spec.split_scheme
  )
  known, others = selection.divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  patients = sorted({source.clips[n]['patient'] for n in others})
  # The same sample whatever the seed, but for patients that are labeled.
  order = np.random.default_rng(1).permutation(sorted({c['patient'] for c in source.clips}))
  sample = {*[p for p in order if p in patients][:PATIENTS]}
  clips = pipeline.eval_clips(spec, 'train')
  sampled = [n for n in others if source.clips[n]['patient'] in sample]
  return [clips[int(n)] for n in known], [clips[int(n)] for n in sampled]


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


def pose_of(masks: np.ndarray) -> np.ndarray:
  """Returns (log of the heart's side, row, column of its center) of a clip's masks [T, S, S]."""
  heart = (masks == 1) | (masks == 2)
  if not heart.any():
    return np.full(3, np.nan)
  return np.array([np.log(heart.sum() / len(masks)) / 2, *np.argwhere(heart)[:, 1:].mean(0)])


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


def in_pose(teacher, clips, plain, poses, goals):
  """Returns logits of clips that were segmented in other poses."""
  size, moved, back = plain.shape[2], np.empty_like(clips.video), []
  for n, (pose, goal) in enumerate(zip(poses, goals)):
    zoom = np.exp(np.clip(goal[0] - pose[0], -LARGEST_ZOOM, LARGEST_ZOOM))
    shift = goal[:0:-1] - zoom * pose[:0:-1]
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    if not np.isfinite(matrix).all():
      matrix = np.eye(3)[:2]
    for t, frame in enumerate(clips.video[n, ..., 0]):
      moved[n, t, ..., 0] = cv2.warpAffine(frame, matrix, (size, size))
    back.append(matrix)
  logits, flags = teacher.run(moved)[2], cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
  frames = [
    cv2.warpAffine(frame, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    for clip, matrix in zip(logits, back)
    for frame in clip
  ]
  return np.stack(frames).reshape(plain.shape)


def weighted(candidates: list[np.ndarray]) -> np.ndarray:
  """Returns the mean of probabilities, as logits, weighted by each frame's expected Dice."""
  p = 1 / (1 + np.exp(-np.stack(candidates)))
  inside = np.stack([masks_of(z) == 1 for z in candidates])
  expected = 2 * (p[..., 0] * inside).sum((-1, -2))
  expected /= np.maximum(p[..., 0].sum((-1, -2)) + inside.sum((-1, -2)), 1)
  weights = np.exp(SHARPNESS * (expected - expected.max(0)))
  p = (p * (weights / weights.sum(0))[..., None, None, None]).sum(0)
  p = np.clip(p, 1e-6, 1 - 1e-6)
  return np.log(p) - np.log1p(-p)


def pose(teacher, clips, references, rng):
  """Yields (kind of reference, logits)."""
  plain = teacher.run(clips.video)[2]
  believed = masks_of(plain)
  poses = np.stack([pose_of(m) for m in believed])
  known = {
    v: np.stack([pose_of(r['masks']) for r in references if r['view'] == v]) for v in {*clips.views}
  }
  goals = {kind: [] for kind in ('labeled', 'other', 'noise')}
  for n, view in enumerate(clips.views):
    spread = known[view].std(0)
    goals['labeled'].append(rng.permutation(known[view])[:REFERENCES])
    goals['other'].append(poses[rng.choice(alike(clips, n), REFERENCES, False)])
    goals['noise'].append(poses[n] + spread * rng.normal(size=(REFERENCES, 3)))
  for kind, goal in goals.items():
    each = np.stack(goal).swapaxes(0, 1)
    yield kind, weighted([plain, *(in_pose(teacher, clips, plain, poses, g) for g in each)])


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
