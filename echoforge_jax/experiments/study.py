"""Studies as data: which trainings answer which question.

Each row is trained with several seeds. A seed also chooses the labeled patients
(`data.label_seed`), so that the spread over seeds includes that choice; rows of one seed share
the labeled patients and are compared as pairs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from echoforge_jax.errors import InputError
from echoforge_jax.training.variants import VARIANTS

UNLABELED_BATCH = 4  # Clips per step, for rows that learn from them.
LABEL_FRACTION = 0.1  # Share of the patients whose labels are used unless a study varies it.


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table."""

  name: str  # Unique within its study; part of folder names.
  variant: str  # Of `training.variants.VARIANTS`; '' for another model.
  label: str  # In tables and plots.
  # Config fields that differ from the study's config.
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  config: str = ''  # As in `--config`; '' takes the study's.


@dataclasses.dataclass(frozen=True)
class Study:
  """A question and the rows that answer it."""

  name: str
  title: str
  rows: tuple[Row, ...]
  reference: str  # Name of the row that the others are compared with.

  def row(self, name: str) -> Row:
    """Returns the row of that name."""
    return next(row for row in self.rows if row.name == name)


def _row(
  variant: str, fraction: float = LABEL_FRACTION, *, name: str = '', label: str = '', **settings
) -> Row:
  """Makes a row, with unlabeled clips where the variant learns from them."""
  learns = VARIANTS[variant].objective != 'supervised'
  return Row(
    name or variant,
    variant,
    label or VARIANTS[variant].description,
    {
      'data.label_fraction': fraction,
      'unlabeled_batch_size': UNLABELED_BATCH * (learns and fraction < 1),
      **{key.replace('__', '.'): value for key, value in settings.items()},
    },
  )


_SSCF = dataclasses.replace(
  _row('mean_teacher', name='sscf', label='SSCF, mean teacher with consistency'),
  variant='',
  config='phantom_sscf_lite',
)
_TWO = (('baseline', 'supervised'), ('all', 'EchoForge'))
_ALL_STUDIES = (
  Study(
    'rows',
    'Parts of EchoForge and baselines, labels of 10 % of the patients',
    tuple(map(_row, ('baseline', 'mean_teacher', 'fixmatch', 'tsf', 'tsf_arc', 'plain', 'all'))),
    reference='baseline',
  ),
  Study(
    'methods',
    'EchoForge, SSCF and baselines, labels of 10 % of the patients',
    (*map(_row, ('baseline', 'mean_teacher', 'fixmatch', 'all')), _SSCF),
    reference='baseline',
  ),
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
    'labels',
    'Share of the patients whose labels are used',
    tuple(
      _row(variant, percent / 100, name=f'{variant}_{percent}', label=f'{text}, {percent} %')
      for percent in (5, 10, 20, 40, 100)
      for variant, text in _TWO
    ),
    reference='baseline_10',
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
)
STUDIES = {study.name: study for study in _ALL_STUDIES}


def get_study(name: str, rows: Sequence[str] = ()) -> Study:
  """Returns the study of that name, or some rows of it; the reference row always stays."""
  if name not in STUDIES:
    raise InputError(f'--study={name}: choose one of {", ".join(STUDIES)}, cost')
  study = STUDIES[name]
  if not rows:
    return study
  known = [row.name for row in study.rows]
  unknown = [row for row in rows if row not in known]
  if unknown:
    raise InputError(f'--rows: found {unknown[0]!r}, wanted some of {", ".join(known)}')
  kept = {*rows, study.reference}
  return dataclasses.replace(study, rows=tuple(row for row in study.rows if row.name in kept))
