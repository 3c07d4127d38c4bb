"""Two views of one patient -> biplane volumes and EF."""

import json
import math
import pathlib

import numpy as np
import SimpleITK as sitk

from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.inference.cycle import FLAGS
from echoforge_jax.metrics import ejection

VIEWS = ('4CH', '2CH')


def measure(folders: dict[str, pathlib.Path]) -> dict:
  """Biplane Simpson from the results that `segment` left.

  ED and ES of each view are those of its own reported beat: views are recorded
  one after the other.

  Args:
    folders: '4CH' and '2CH' -> the folder of that clip's results.

  Returns:
    JSON-ready: views, edv_ml, esv_ml, ef_percent, ef_method 'biplane', flags
    (of both views' results and of the pair) and flag_details; numbers are None
    where they cannot be measured.

  Raises:
    InputError: a view has no spacing, or neither ED nor ES.
  """
  results, cavities = {}, {'ed': {}, 'es': {}}
  for view in VIEWS:
    result = json.loads((folders[view] / 'result.json').read_text())
    source = result['source']
    if result['spacing_mm'] is None:
      raise InputError(
        f'{source}: mm per pixel unknown, so no biplane volume of the pair; '
        'give --spacing_mm'
      )
    if result['ed_frame'] is None:
      raise InputError(
        f'{source}: no ED and ES found ({", ".join(result["flags"])}), so no '
        'biplane volume of the pair; wanted a moving clip of the ventricle'
      )
    masks = sitk.GetArrayFromImage(
      sitk.ReadImage(str(folders[view] / 'masks.nii.gz'))
    )
    for phase in cavities:
      cavities[phase][view] = ejection.measure_cavity(
        masks[result[f'{phase}_frame']] == LABELS['lv'],
        tuple(result['spacing_mm']),
      )
    results[view] = result
  found = ejection.measure_ejection(cavities['ed'], cavities['es'])
  flags = list(
    dict.fromkeys(
      [
        flag
        for flag in (
          *found.flags,
          *results['4CH']['flags'],
          *results['2CH']['flags'],
        )
      ]
    )
  )
  numbers = {
    name: getattr(found, name) for name in ('edv_ml', 'esv_ml', 'ef_percent')
  }
  return {
    'views': {view: results[view]['source'] for view in VIEWS},
    **{
      name: round(value, 6) if np.isfinite(value) else None
      for name, value in numbers.items()
    },
    'ef_method': 'biplane',
    'ef_single_plane': {view: results[view]['ef_percent'] for view in VIEWS},
    'long_axis_mm': {
      phase: {
        view: round(cavity.length, 3) if cavity else None
        for view, cavity in views.items()
      }
      for phase, views in cavities.items()
    },
    'flags': flags,
    'flag_details': {flag: FLAGS[flag] for flag in flags},
    'disclaimer': results['4CH']['disclaimer'],
  }


def summary(result: dict) -> str:
  """One line about a pair.

  Args:
    result: of `measure`.
  """

  def show(value, unit):
    known = value is not None and math.isfinite(value)
    return f'{value:.0f} {unit}' if known else '?'

  flags = f'  [{", ".join(result["flags"])}]' if result['flags'] else ''
  return (
    f'{result["views"]["4CH"]} + {result["views"]["2CH"]}: biplane EF '
    f'{show(result["ef_percent"], "%")}, EDV '
    f'{show(result["edv_ml"], "ml")}, ESV '
    f'{show(result["esv_ml"], "ml")}{flags}'
  )
