"""Rows of a comparison as variants of one config: the paper's and baselines."""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Variant:
  """Parts of EchoForge that are on, and what is minimized."""

  tsf: bool
  arc: bool
  cpr: bool
  objective: str  # A name of `training.objectives.OBJECTIVES`.
  description: str  # A row's label in tables.


VARIANTS = {
  'baseline': Variant(False, False, False, 'supervised', 'encoder-decoder, supervised only'),
  'tsf': Variant(True, False, False, 'supervised', '+ TSF'),
  'tsf_arc': Variant(True, True, False, 'supervised', '+ TSF + ARC'),
  'all': Variant(True, True, True, 'echoforge', '+ TSF + ARC + CPR with FlameRise (EchoForge)'),
  'plain': Variant(True, True, False, 'echoforge', 'EchoForge without CPR: plain pseudo-labels'),
  'mean_teacher': Variant(
    False, False, False, 'mean_teacher', 'encoder-decoder, mean teacher with consistency'
  ),
  'fixmatch': Variant(False, False, False, 'fixmatch', 'encoder-decoder, confident pseudo-labels'),
}
# The largest weight of the consistency term (ours): the gradient of a squared distance of
# probabilities is about a tenth of that of a cross-entropy.
CONSISTENCY_WEIGHT = 10.0


def apply_variant(config: ConfigDict, name: str) -> ConfigDict:
  """Switches an unlocked config to one row of a comparison, in place; returns it locked.

  Without CPR nothing is learned from unlabeled frames in the paper's rows, as in its table, where
  semi-supervision comes with CPR. The baselines learn from them with the encoder-decoder alone.
  The name '' is the model as it is meant to be trained; SSCF has one row more: 'supervised'.
  """
  if config.model.name == 'sscf':
    if name not in ('', 'supervised'):
      raise InputError(f'config argument {name!r}: choose supervised, or none')
    config.objective.name = name or config.objective.name
    return config.lock()
  if (name or 'all') not in VARIANTS:
    raise InputError(f'config argument {name!r}: choose one of {", ".join(VARIANTS)}')
  variant = VARIANTS[name or 'all']
  config.model.update(use_tsf=variant.tsf, use_arc=variant.arc, use_cpr=variant.cpr)
  if variant.objective != 'echoforge':
    kept = {name: config.objective[name] for name in ('supervised_weight', 'coarse_weight')}
    config.objective = ConfigDict({'name': variant.objective} | kept)
  elif not variant.cpr:
    config.objective.update(pseudo_labels='plain', episodic_weight=0.0)
  rise = config.semi.flame_rise
  if variant.objective == 'mean_teacher':
    rise.update(shape='gaussian', start=0.0, weight_max=CONSISTENCY_WEIGHT)
  elif variant.objective == 'fixmatch':
    rise.start = rise.end = 0.0
    rise.threshold_end = rise.threshold_start
  return config.lock()
