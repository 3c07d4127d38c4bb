"""Two views of one patient -> biplane volumes and EF."""

import json
import pathlib

from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.formats.volumes import read_volume
from echoforge_jax.inference.measurement import FLAGS
from echoforge_jax.metrics import ejection
from echoforge_jax.textio import to_json

VIEWS = ('4CH', '2CH')


def measure_pair(folders: dict[str, pathlib.Path]) -> dict:
  """Measures biplane Simpson volumes from the results that `segment` left.

  ED and ES of each view are those of its own reported beat: views are recorded
  one after the other. Numbers are None where they cannot be measured.
  """
  results = {view: _read_result(folders[view]) for view in VIEWS}
  cavities: dict[str, dict] = {'ed': {}, 'es': {}}
  for view, result in results.items():
    masks = read_volume(folders[view] / 'masks.nii.gz').array
    for phase, found in cavities.items():
      found[view] = ejection.measure_cavity(
        masks[result[f'{phase}_frame']] == LABELS['lv'], tuple(result['spacing_mm'])
      )
  pair = ejection.measure_ejection(cavities['ed'], cavities['es'])
  flags = [*pair.flags, *(f for view in VIEWS for f in results[view]['flags'])]
  flags = list(dict.fromkeys(flags))
  volumes = {name: getattr(pair, name) for name in ('edv_ml', 'esv_ml', 'ef_percent')}
  return {
    'views': {view: results[view]['source'] for view in VIEWS},
    **to_json(volumes, digits=6),
    'ef_method': 'biplane',
    'ef_single_plane': {view: results[view]['ef_percent'] for view in VIEWS},
    'long_axis_mm': {
      phase: {view: round(cavity.length, 3) if cavity else None for view, cavity in views.items()}
      for phase, views in cavities.items()
    },
    'flags': flags,
    'flag_details': {flag: FLAGS[flag] for flag in flags},
    'disclaimer': results['4CH']['disclaimer'],
  }


def _read_result(folder: pathlib.Path) -> dict:
  result = json.loads((folder / 'result.json').read_text())
  if result['spacing_mm'] is None:
    raise InputError(
      f'{result["source"]}: mm per pixel unknown, so no biplane volume of the pair; give '
      '--spacing_mm'
    )
  if result['ed_frame'] is None:
    raise InputError(
      f'{result["source"]}: no ED and ES found ({", ".join(result["flags"])}), '
      'so no biplane volume of the pair; wanted a moving clip of the ventricle'
    )
  return result


def numbers(result: dict) -> str:
  """Returns EF, volumes and flags of a result in one line; '?' if unknown."""

  def show(name, unit):
    value = result[name]
    return '?' if value is None else f'{value:.0f} {unit}'

  flags = f'  [{", ".join(result["flags"])}]' if result['flags'] else ''
  return f'{show("ef_percent", "%")}, EDV {show("edv_ml", "ml")}, ESV {show("esv_ml", "ml")}{flags}'


def summary(result: dict) -> str:
  """Returns one line about a pair that `measure_pair` measured."""
  views = result['views']
  return f'{views["4CH"]} + {views["2CH"]}: biplane EF {numbers(result)}'
