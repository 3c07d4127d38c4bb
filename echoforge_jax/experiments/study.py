"""Studies as data: which trainings answer which question.

Each row is trained with several seeds. A seed also chooses the labeled patients
(`data.label_seed`), so that the spread over seeds includes that choice; rows of one seed share
the labeled patients and are compared as pairs.

The study `labels` has these trainings, each from random weights and from those of the shipped
model, which has seen phantoms only:
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Any, NamedTuple

from echoforge_jax.errors import InputError
from echoforge_jax.training.variants import CONSISTENCY_WEIGHT, find_variant


class Size(NamedTuple):
  """One number of labeled patients, and how a training with it is done."""

  patients: int  # 0: all there are.
  steps: int  # Updates; chosen for their time, not by any score.
  seeds: int


SIZES = (
  Size(5, 400, 3),
  Size(10, 500, 8),
  Size(20, 600, 3),
  Size(40, 700, 8),
  Size(100, 800, 3),
  Size(0, 800, 3),
)
STEP_SECONDS = 0.2  # Of an update on two cores, two runs side by side, measured; 0.36 on one.

UNLABELED_BATCH = 4  # Clips per step, for rows that learn from them.
LABEL_FRACTION = 0.1  # Share of the patients whose labels are used unless a study varies it.


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table."""

  name: str  # Unique within its study; part of folder names.
  variant: str  # As `training.variants.find_variant` takes it; '' for another model.
  label: str  # In tables and plots.
  # Config fields that differ from the study's config.
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  config: str = ''  # As in `--config`; '' takes the study's.
  seeds: int = 3
  against: str = ''  # Name of the row that it is compared with; '' takes the study's reference.
  curve: str = ''  # Of a plot over the number of labeled patients.


@dataclasses.dataclass(frozen=True)
class Study:
  """A question and the rows that answer it."""

  name: str
  title: str
  rows: tuple[Row, ...]
  reference: str = ''  # Name of the row that the others are compared with.

  def row(self, name: str) -> Row:
    """Returns the row of that name."""
    return next(row for row in self.rows if row.name == name)

  def reference_of(self, row: Row) -> str:
    """Returns the name of the row that a row is compared with; '' if there is none."""
    name = row.against or self.reference
    return name if name != row.name else ''


def _row(
  variant: str, fraction: float = LABEL_FRACTION, *, name: str = '', label: str = '', **settings
) -> Row:
  """Makes a row, with unlabeled clips where the variant learns from them."""
  learns = find_variant(variant).objective != 'supervised'
  return Row(
    name or variant,
    variant,
    label or find_variant(variant).description,
    {
      'data.label_fraction': fraction,
      'unlabeled_batch_size': UNLABELED_BATCH * (learns and fraction < 1),
      **{key.replace('__', '.'): value for key, value in settings.items()},
    },
  )


def labels_study(patients: Sequence[int] = (), weights: str = 'default') -> Study:
  """Returns the study `labels`, of some numbers of patients (0: all), from weights of a file.

  A number that is not in `SIZES` is trained as the next larger one is.
  """
  rows = []
  for count in patients or [size.patients for size in SIZES]:
    size = next((size for size in SIZES if 0 < count <= size.patients), SIZES[-1])
    text = f'{count or "all"} patients'
    fields = {'data.labeled_patients': count, 'num_steps': size.steps}
    # The length is known, and nothing is chosen by a validation.
    fields |= {'eval.every': 0, 'eval.best_metric': '', 'checkpoint_every': 200}
    random = f'random_{count or "all"}'
    for name, init, against in (('random', '', ''), ('phantom', weights, random)):
      rows.append(
        Row(
          f'{name}_{count or "all"}',
          'tsf_arc',  # As the shipped model.
          f'{text}, {name} weights',
          fields | {'init_from': init},
          seeds=size.seeds,
          against=against,
          curve=f'{name} weights',
        )
      )
  return Study('labels', 'Supervised training from random and from phantom weights', tuple(rows))


# Of the study `methods`: updates of every training; of a supervised one that is given more time
# than `pose` takes (2.1 times that of 300 supervised ones, measured); clips of a step with a label,
# and as many without.
METHOD_STEPS, LONG_STEPS, METHOD_BATCH = 300, 900, 4
METHODS = {
  'supervised': 'supervised',
  'mean_teacher': 'mean teacher with consistency',
  'fixmatch': 'FixMatch',
  'freematch': 'FreeMatch',
  'cutmix': 'CutMix with copy-paste (BCP)',
  'unimatch': 'UniMatch',
  'paper': 'EchoForge as the paper words it',
  'pose': 'EchoForge, reforged by pose (ours)',
}


def _method(
  objective: str,
  patients: int,
  seeds: int,
  *,
  name: str = '',
  label: str = '',
  against: str = '',
  weights: str = 'default',
  **settings,
) -> Row:
  """Makes a row of `methods_study`: one network, one start, one number of updates."""
  fields = {'data.labeled_patients': patients, 'num_steps': METHOD_STEPS, 'init_from': weights}
  fields |= {'batch_size': METHOD_BATCH, 'checkpoint_every': METHOD_STEPS}
  # Nothing is chosen by a validation.
  fields |= {'eval.every': 0, 'eval.best_metric': ''}
  if objective != 'supervised':
    fields['unlabeled_batch_size'] = METHOD_BATCH
  # A teacher that has seen phantoms alone has little to say of patients: it is asked late. Chosen
  # on training patients.
  rise = {'start': 0.4, 'end': 0.6}
  if objective == 'mean_teacher':
    rise |= {'shape': 'gaussian', 'weight_max': CONSISTENCY_WEIGHT}
  if objective == 'fixmatch':  # Its threshold is a constant.
    rise['threshold_end'] = 0.95
  if objective != 'supervised':
    fields |= {f'semi.flame_rise.{key}': value for key, value in rise.items()}
  variant = {'paper': 'all', 'pose': 'pose'}.get(objective, 'tsf_arc')
  if variant == 'tsf_arc':
    fields['objective.name'] = objective
  fields |= settings
  return Row(
    name or objective, variant, label or METHODS[objective], fields, seeds=seeds, against=against
  )


def methods_study(weights: str = 'default') -> Study:
  """Returns the study `methods`, from weights of a file."""
  start = {'weights': weights}
  rows = [_method(name, 10, 8, **start) for name in METHODS]
  long = {'num_steps': LONG_STEPS, 'checkpoint_every': METHOD_STEPS}
  text = f'supervised, {LONG_STEPS} updates'
  rows.append(_method('supervised', 10, 8, name='supervised_long', label=text, **start, **long))
  for count in (5, 20, 40):
    name = f'supervised_{count}'
    seeds = 8 if count == 40 else 3
    text = f'{count} patients: supervised'
    rows.append(_method('supervised', count, seeds, name=name, label=text, **start))
    text = f'{count} patients: reforged by pose'
    rows.append(_method('pose', count, 3, name=f'pose_{count}', label=text, against=name, **start))
  random = {'weights': '', 'against': 'supervised_random'}
  for objective in ('supervised', 'pose'):
    text = f'random weights: {METHODS[objective]}'
    rows.append(_method(objective, 10, 3, name=f'{objective}_random', label=text, **random))
  # Half of the sixteen combinations, the gate on with an odd number of the others; all of them on
  # is the row `pose`.
  for tsf, arc, cpr in itertools.product((0, 1), repeat=3):
    if tsf and arc and cpr:
      continue
    gate = tsf ^ arc ^ cpr
    parts = {'tsf': tsf, 'arc': arc, 'pose': cpr, 'gate': gate}
    text = 'parts: ' + (' + '.join(name for name, on in parts.items() if on) or 'none')
    options = {'model.use_tsf': bool(tsf), 'model.use_arc': bool(arc)}
    options |= {'objective.references': 2 * cpr, 'objective.gate': 2.0 * gate}
    name = f'parts_{tsf}{arc}{cpr}{gate}'
    rows.append(_method('pose', 10, 3, name=name, label=text, against='pose', **start, **options))
  title = 'Methods with labels of 10 real patients, the others unlabeled'
  return Study('methods', title, tuple(rows), reference='supervised')


_TWO = (('baseline', 'supervised'), ('all', 'EchoForge'))
_ALL_STUDIES = (
  Study(
    'rows',
    'Parts of EchoForge and baselines, labels of 10 % of the patients',
    tuple(map(_row, ('baseline', 'mean_teacher', 'fixmatch', 'tsf', 'tsf_arc', 'plain', 'all'))),
    reference='baseline',
  ),
  methods_study(),
  Study(
    'anchors',
    'Number of ARC anchors, labels of 10 % of the patients',
    tuple(
      _row('all', name=f'anchors{n}', label=f'{n} anchor{"s"[: n > 1]}', model__anchors=n)
      for n in (1, 2, 3, 4)
    ),
    reference='anchors2',
  ),
  Study(
    'supervision',
    'ED and ES labeled, or every frame; all patients',
    tuple(
      _row(
        variant,
        1.0,
        name=f'{variant}_{kind}',
        label=f'{text}, {kind} labels',
        data__supervision=kind,
      )
      for kind in ('sparse', 'full')
      for variant, text in _TWO
    ),
    reference='baseline_sparse',
  ),
  labels_study(),
)
STUDIES = {study.name: study for study in _ALL_STUDIES}


def _own_row(study: Study, text: str) -> Row:
  name, _, fields = text.partition(':')
  # A comma may also be part of a value, such as ('lv', 'myo').
  pairs = [field.split('=', 1) for field in re.split(r',(?=[\w.]+=)', fields)]
  if not re.fullmatch(r'\w+', name) or any(len(pair) != 2 for pair in pairs):
    raise InputError(f'--row={text}: wanted NAME:FIELD=VALUE,..., such as mine:model.dropout=0.1')
  base = study.row(study.reference) if study.reference else study.rows[0]
  settings = {**base.settings, **dict(pairs)}
  return dataclasses.replace(base, name=name, label=fields, settings=settings, against=base.name)


def get_study(
  name: str,
  rows: Sequence[str] = (),
  *,
  seeds: int = 0,
  steps: int = 0,
  patients: Sequence[int] = (),
  weights: str = '',
  more: Sequence[str] = (),
) -> Study:
  """Returns the study of that name, or a part of it; a row that others are compared with stays.

  Args:
    rows: names; none takes all.
    seeds: of every row; 0 leaves them as they are.
    steps: of every training; 0 leaves them as they are.
    patients, weights: of `labels_study`; weights of `methods_study` as well.
    more: rows more, 'NAME:FIELD=VALUE,FIELD=VALUE': the reference (of labels the first row) with
      fields of its config changed.
  """
  if name not in STUDIES:
    raise InputError(f'--study={name}: choose one of {", ".join(STUDIES)}, cost')
  if patients and name != 'labels':
    raise InputError(f'--study={name}: --patients belongs to --study=labels')
  if weights and name not in ('labels', 'methods'):
    raise InputError(f'--study={name}: --weights belongs to --study=labels and methods')
  study = STUDIES[name]
  if weights and name == 'methods':
    study = methods_study(weights)
  elif patients or weights:
    study = labels_study(patients, weights or 'default')
  study = dataclasses.replace(study, rows=(*study.rows, *(_own_row(study, x) for x in more)))
  known = {row.name: row for row in study.rows}
  if len(known) < len(study.rows):
    raise InputError(f'--row: found a name twice, wanted others than {", ".join(known)}')
  if unknown := [row for row in rows if row not in known]:
    raise InputError(f'--rows: found {unknown[0]!r}, wanted some of {", ".join(known)}')
  kept = {*(rows or known)}
  kept |= {study.reference_of(known[row]) for row in kept}
  changed = {'seeds': seeds} if seeds else {}
  length = {'num_steps': steps} if steps else {}
  chosen = tuple(
    dataclasses.replace(row, settings={**row.settings, **length}, **changed)
    for row in study.rows
    if row.name in kept
  )
  return dataclasses.replace(study, rows=chosen)
