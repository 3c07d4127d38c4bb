"""The rows of the paper's ablation table as variants of a config."""

from ml_collections import ConfigDict

from echoforge_jax.errors import InputError

# Which parts each row has: TSF, ARC, and CPR with FlameRise.
VARIANTS = {
    'baseline': (False, False, False),
    'tsf': (True, False, False),
    'tsf_arc': (True, True, False),
    'all': (True, True, True),
}


def apply_variant(config: ConfigDict, name: str) -> ConfigDict:
  """Switches parts of EchoForge off, in place.

  Without CPR nothing is learned from unlabeled frames, as in the paper's
  table, where semi-supervision comes with CPR.

  Args:
    config: an unlocked config whose model is 'echoforge'.
    name: a row of `VARIANTS`; '' is 'all'.

  Returns:
    The same config, locked.

  Raises:
    InputError: for an unknown name.
  """
  if (name or 'all') not in VARIANTS:
    raise InputError(f'config argument {name!r}: choose one of '
                     f'{", ".join(VARIANTS)}')
  tsf, arc, cpr = VARIANTS[name or 'all']
  config.model.use_tsf = tsf
  config.model.use_arc = arc
  config.model.use_cpr = cpr
  if not cpr:
    config.semi.pseudo_labels = 'none'
    config.objective.episodic_weight = 0.0
  return config.lock()
