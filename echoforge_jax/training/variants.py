"""Rows of a comparison as variants of one config: the paper's and baselines."""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.config import objective_names, set_objective
from echoforge_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Variant:
  """Parts of EchoForge that are on, and what is minimized."""

  tsf: bool
  arc: bool
  cpr: bool
  objective: str  # One of `config.objective_names`.
  description: str  # A row's label in tables.


VARIANTS = {
  'baseline': Variant(False, False, False, 'supervised', 'encoder-decoder, supervised only'),
  'tsf': Variant(True, False, False, 'supervised', '+ TSF'),
  'tsf_arc': Variant(True, True, False, 'supervised', '+ TSF + ARC'),
  'all': Variant(True, True, True, 'echoforge', '+ TSF + ARC + CPR with FlameRise (the paper)'),
  'pose': Variant(True, True, False, 'echoforge', '+ TSF + ARC, reforged by pose (ours)'),
  'plain': Variant(True, True, False, 'echoforge', 'EchoForge without CPR: plain pseudo-labels'),
  'mean_teacher': Variant(
    False, False, False, 'mean_teacher', 'encoder-decoder, mean teacher with consistency'
  ),
  'fixmatch': Variant(False, False, False, 'fixmatch', 'encoder-decoder, confident pseudo-labels'),
}
# The largest weight of the consistency term (ours): the gradient of a squared distance of
# probabilities is about a tenth of that of a cross-entropy.
CONSISTENCY_WEIGHT = 10.0


def find_variant(name: str) -> Variant:
  """Returns the row of that name, or that of an objective which has no row of its own."""
  others = sorted({*objective_names()} - {*VARIANTS, *(v.objective for v in VARIANTS.values())})
  if name in others:
    return Variant(True, True, False, name, f'TSF + ARC, {name}')
  if name not in VARIANTS:
    raise InputError(f'config argument {name!r}: choose one of {", ".join([*VARIANTS, *others])}')
  return VARIANTS[name]


def apply_variant(config: ConfigDict, name: str) -> ConfigDict:
  """Switches an unlocked config to one row of a comparison, in place; returns it locked.

  Without CPR nothing is learned from unlabeled frames in the paper's rows, as in its table, where
  semi-supervision comes with CPR. The baselines learn from them with the encoder-decoder alone.
  The name of an objective that has no row here stands for it with TSF and ARC, without CPR. ''
  is the model as it is meant to be trained; SSCF has one row more: 'supervised'.
  """
  if config.model.name == 'sscf':
    if name not in ('', 'supervised'):
      raise InputError(f'config argument {name!r}: choose supervised, or none')
    config.objective.name = name or config.objective.name
    return config.lock()
  variant = find_variant(name or 'all')
  config.model.update(use_tsf=variant.tsf, use_arc=variant.arc, use_cpr=variant.cpr)
  if variant.objective != 'echoforge':
    set_objective(config, {'name': variant.objective})
  elif not variant.cpr:
    config.objective.update(cpr='pose' if name == 'pose' else 'none', episodic_weight=0.0)
  rise = config.semi.flame_rise
  if variant.objective == 'mean_teacher':
    rise.update(shape='gaussian', start=0.0, weight_max=CONSISTENCY_WEIGHT)
  elif variant.objective == 'fixmatch':
    rise.start = rise.end = 0.0
    rise.threshold_end = rise.threshold_start
  return config.lock()
