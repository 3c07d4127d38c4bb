"""The objectives of EchoForge: the paper's, and ours."""

from jax import Array

from echoforge_jax.errors import InputError
from echoforge_jax.training.objectives import base, reforging, terms
from echoforge_jax.training.objectives.cutmix import paste

CPR = ('paper', 'pose', 'none')


def echoforge(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  episodic_weight: float = 0.4,
  cpr: str = 'paper',
  references: int = 2,
  gate: float = 2.0,
  mixed: float = 0.0,
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
  labeled hearts of the batch; each clip by the weight 2 sigmoid(gate z), z the standard score of
  the Dice that it expects among the clips so far (gate 0: all weigh 1); and, on demand, clips
  pasted into each other (`cutmix.paste`, the share `mixed`). The loss is a mean over all unlabeled
  pixels, and CPR has no part in it.

  w_c counts only where the model gives `coarse_logits`. `num_unlabeled` is the count of
  `base.unlabeled_frames`, `layout` that of `base.unlabeled_rows`.
  """
  if cpr not in CPR:
    raise InputError(f'config.objective.cpr is {cpr!r}; choose one of {", ".join(CPR)}')
  for name, value, most in (
    ('references', references, 16),
    ('gate', gate, 100),
    ('mixed', mixed, 1),
  ):
    if not 0 <= value <= most:
      raise InputError(f'config.objective.{name} is {value}; wanted a number from 0 to {most}')
  parts = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  if cpr == 'pose':
    return base.compose(
      [*parts, terms.soft_labels()],
      teacher=reforging.teacher(references, gate, layout),
      mix=(lambda *given: paste(*given, mixed)) if mixed else None,
      init_extra=reforging.init_gate,
      update_extra=reforging.update_gate(layout),
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
