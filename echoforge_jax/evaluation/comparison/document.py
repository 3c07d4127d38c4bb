"""What every comparison of runs writes beside its rows."""

from collections.abc import Sequence
import pathlib

from echoforge_jax import textio
from echoforge_jax.evaluation.comparison.read import EvaluationFiles
from echoforge_jax.provenance import git_revision, versions


def setting_notes(runs: Sequence[EvaluationFiles]) -> list[str]:
  """Returns phrases on what makes comparable evaluations less comparable."""
  found = []
  if any(run.receipt.get('raw_fingerprint') is None for run in runs):
    found.append(
      'no fingerprint of the raw data: nothing shows that both were scored on the same clips'
    )
  steps = [run.receipt.get('checkpoint_step') for run in runs]
  if None not in steps and max(steps) > 1.1 * min(steps):
    found.append(f'the checkpoints differ in steps: {_listed(steps)}')
  labels = ('networks', 'image sizes', 'git revisions', 'devices')
  for key, text in zip(('which', 'image_size', 'git_revision', 'device'), labels):
    values = [run.receipt.get(key) for run in runs]
    if len(set(values)) > 1:
      found.append(f'different {text}: {_listed(values)}')
  used = [run.receipt.get('versions') or {} for run in runs]
  if names := sorted(n for n in set().union(*used) if len({v.get(n) for v in used}) > 1):
    found.append(f'evaluated with different versions of {", ".join(names)}')
  if runs[0].pooling == 'frame':
    found.append('means are over patients here, over frames in metrics.json')
  return found


def run_entry(run: EvaluationFiles) -> dict:
  """Returns what a comparison's file says about one of its runs."""
  return {'folder': str(run.folder), 'run': run.label, 'receipt': run.receipt}


def document(runs: Sequence[EvaluationFiles], options: dict, /, **fields) -> dict:
  """Returns a comparison ready for JSON: `fields` between setting and receipt.

  `options` are seed and resamples of the bootstrap; 'rows' and 'warnings' are among the fields.
  """
  receipt = options | {'git_revision': git_revision(), 'versions': versions()}
  setting = {key: runs[0].metrics[key] for key in ('protocol', 'unit')}
  return textio.to_json({**setting, **fields, 'receipt': receipt, 'source': _source(runs, receipt)})


def table_text(head: str, table: Sequence[tuple], remarks: Sequence[str], found: dict) -> str:
  """Returns a comparison's table with its remarks, warnings and source."""
  remarks = [*remarks, *(f'note: {w}' for w in found['warnings'])]
  lines = [head, *textio.columns(table)]
  return '\n'.join(lines + [f'  {r}' for r in (*remarks, found['source'])])


def write_comparison(found: dict, out_dir, name: str) -> dict:
  """Writes NAME.json into a folder, made if missing; returns {name: path}."""
  path = pathlib.Path(out_dir) / f'{name}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  textio.write_json(path, found)
  return {name: path}


def _source(runs: Sequence[EvaluationFiles], receipt: dict) -> str:
  """Returns one line that says what the numbers of a table come from."""

  def listed(key):
    return _listed([run.receipt.get(key) for run in runs])

  names = ('echoforge_jax', 'jax', 'numpy', 'scipy')
  used = ', '.join(f'{name} {receipt["versions"][name]}' for name in names)
  return (
    f'protocol {runs[0].metrics["protocol"]}, split {listed("split")} of {listed("dataset")}, '
    f'training seeds {listed("training_seed")}, steps {listed("checkpoint_step")}, evaluated at '
    f'{listed("git_revision")}, table at {receipt["git_revision"]}, bootstrap seed '
    f'{receipt["seed"]} x {receipt["resamples"]}, {used}'
  )


def _listed(values) -> str:
  return ', '.join(dict.fromkeys('n/a' if v is None else str(v) for v in values))
