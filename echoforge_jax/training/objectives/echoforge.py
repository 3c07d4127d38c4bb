"""The objectives of EchoForge: the paper's, and ours."""

from collections.abc import Callable

import jax
from jax import Array
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.training import reforging
from echoforge_jax.training.objectives import base, terms
from echoforge_jax.training.objectives.cutmix import paste

CPR = ('paper', 'pose', 'none')
# The gate's running mean and variance of expected Dice (ours).
DECAY, SPREAD = 0.98, 0.02


def echoforge(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  episodic_weight: float = 0.4,
  cpr: str = 'paper',
  references: int = 2,
  gate: float = 2.0,
  mixed: float = 0.5,
  num_unlabeled: int | None = None,
  layout: tuple[int, int] = (0, 1),
) -> base.Objective:
  """Returns what EchoForge minimizes, with pseudo-labels by `cpr`.

  'paper', as the paper words it:

    w_s (BCE + Dice on labeled frames)
    + w_c (coarse masks on labeled frames)             (ours)
    + w_e (episodic CPR: ED reforges ES, ES reforges ED)  (ours)
    + lambda(e) (BCE + Dice on confident pixels of unlabeled frames)

  The student sees `video_strong`, the teacher `video_weak`. The student decodes reforged logits
  only of its two episodic frames, the teacher only of frames that may be unlabeled. w_e is 0 for a
  model without CPR. 'none' is the same with the teacher's own logits.

  'pose' (ours): soft pseudo-labels by `reforging.by_pose`, seen in the poses of `references`
  labeled hearts of the batch; each clip by the weight sigmoid(gate z), z the standard score of the
  Dice that it expects among the clips so far (gate 0: all alike); and clips pasted into each other
  (`cutmix.paste`, the share `mixed`). The loss is a mean over all unlabeled pixels, and CPR has no
  part in it.

  w_c counts only where the model gives `coarse_logits`. `num_unlabeled` is the count of
  `base.unlabeled_frames`, `layout` that of `base.unlabeled_rows`.
  """
  if cpr not in CPR:
    raise InputError(f'config.objective.cpr is {cpr!r}; choose one of {", ".join(CPR)}')
  parts = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  if cpr == 'pose':
    return base.compose(
      [*parts, terms.soft_labels()],
      teacher=_by_pose(references, gate, layout),
      mix=(lambda *given: paste(*given, mixed)) if mixed else None,
      init_extra=lambda outputs: {'mean': jnp.float32(0.9), 'variance': jnp.float32(SPREAD**2)},
      update_extra=_update_gate,
    )

  def student(apply, batch, key, extra) -> base.Outputs:
    frames, _ = base.labeled_pair(batch['labeled'])
    return apply(
      batch['video_strong'], labeled=batch['labeled'], reforge=True, reforge_frames=frames
    )

  def reforge(apply, batch, key, extra) -> Array:
    labeled = batch['labeled']
    frames, _ = base.unlabeled_frames(labeled, num_unlabeled)
    # Without a single label in the batch these are the plain logits (`EchoForge._reforge`).
    outputs = apply(batch['video_weak'], labeled=labeled, reforge=True, reforge_frames=frames)
    return outputs['reforged_logits']

  parts.append(terms.pseudo_labels(num_unlabeled))
  if episodic_weight:
    parts.append(terms.episodic(episodic_weight))
  return base.compose(
    parts,
    student=student if episodic_weight else base.strong_view,
    teacher=reforge if cpr == 'paper' else base.plain_teacher(num_unlabeled),
  )


def _by_pose(references: int, gate: float, layout: tuple[int, int]) -> Callable:
  """Returns the teacher of 'pose'; only clips that may have unlabeled frames are segmented."""

  def teacher(apply, batch, key, extra) -> base.SoftLabels:
    def predict(video: Array) -> Array:
      return apply(video)['logits']

    masks, labeled = batch['masks'], batch['labeled']
    heart = (masks >= 1) & (masks <= reforging.CLASSES)
    poses = reforging.pose_of(heart, labeled)
    video = base.unlabeled_rows(batch['video_weak'], layout).astype(jnp.float32) / 255.0
    p = reforging.by_pose(predict, video, poses, references, key)
    score = (reforging.expected_dice(p).mean(1) - extra['mean']) / jnp.sqrt(extra['variance'])
    weights = jax.nn.sigmoid(gate * score)[:, None, None, None, None]
    weights = jnp.broadcast_to(weights, p.shape)
    targets, weights = (base.among_rows(x, layout) for x in (p, weights))
    candidates = jnp.broadcast_to(~labeled[..., None, None], masks.shape)
    return base.SoftLabels(targets, weights, candidates)

  return teacher


def _update_gate(extra, outputs, teacher, batch, values, key):
  """Follows mean and variance of the expected Dice of clips that are not mixed with others."""
  dice = reforging.expected_dice(teacher.targets)
  seen = (teacher.weights > 0).any((2, 3, 4)).astype(jnp.float32)
  count = jnp.maximum(seen.sum(), 1)
  mean = (dice * seen).sum() / count
  variance = (((dice - mean) ** 2) * seen).sum() / count
  rate, moved = (1 - DECAY) * (values.weight > 0), {'mean': mean, 'variance': variance}
  moved = {name: old + rate * (moved[name] - old) for name, old in extra.items()}
  return moved | {'variance': jnp.maximum(moved['variance'], SPREAD**2 / 100)}
