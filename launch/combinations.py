"""Combinations of config values, and the commands that train them."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import re
import shlex

from ml_collections import ConfigDict

from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError

TARGETS = ('local', 'slurm', 'gcloud')


@dataclasses.dataclass(frozen=True)
class Run:
  """One combination, called after its values."""

  name: str
  workdir: str  # A directory, or `gs://...`.
  flags: tuple[str, ...]  # Of `train`.
  config: ConfigDict


def _split_values(text: str) -> list[str]:
  """Splits at commas that are outside of brackets and quotes."""
  values, depth, quote = [''], 0, ''
  for letter in text:
    if quote:
      quote = '' if letter == quote else quote
    elif letter in '\'"':
      quote = letter
    else:
      depth += (letter in '([{') - (letter in ')]}')
      if letter == ',' and not depth:
        values.append('')
        continue
    values[-1] += letter
  return values


def parse_axis(text: str) -> tuple[str, list[str]]:
  """Reads one --set, 'field=value,value...' or ':arg,:arg...'; returns field and values.

  The field is '' for the config's argument.
  """
  field, equals, rest = text.partition('=')
  if text.startswith(':'):
    field, values = '', text.split(',')
    if not all(re.fullmatch(r':\w+', value) for value in values):
      raise InputError(
        f'--set {text}: wanted arguments of the config, each with its colon, such as :all,:baseline'
      )
    values = [value[1:] for value in values]
  else:
    values = _split_values(rest)
    if not equals or not re.fullmatch(r'\w+(\.\w+)*', field):
      raise InputError(
        f'--set {text}: wanted FIELD=VALUE,VALUE such as seed=0,1,2, or :all,:baseline'
      )
  if '' in values or len(set(values)) < len(values):
    raise InputError(f'--set {text}: a value is empty or there twice')
  return field, values


def make_runs(
  config: str, root: str, axes: Sequence[tuple[str, list[str]]], fixed: Sequence[str]
) -> list[Run]:
  """Makes all combinations, each checked against the config.

  `root` is the folder of the workdirs. The last axis (of `parse_axis`) varies fastest; `fixed`
  are further flags of every run, --config.FIELD=VALUE.
  """
  fields = [field for field, _ in axes]
  taken = [flag.partition('=')[0].removeprefix('--config.') for flag in fixed]
  for field in fields:
    if (fields + taken).count(field) > 1:
      raise InputError(f'the field {field!r} is set twice')
  if '' in fields and ':' in config:
    raise InputError(
      f'--config={config} has an argument already; leave it '
      'out, or leave out the --set that starts with ":"'
    )
  lasts = [field.rpartition('.')[2] for field in fields]
  labels = {field: last if lasts.count(last) == 1 else field for field, last in zip(fields, lasts)}
  runs = []
  for values in itertools.product(*(values for _, values in axes)):
    chosen = dict(zip(fields, values))
    name = ','.join(
      re.sub(r'[^\w.+=-]+', '-', f'{labels[field]}={value}' if field else value).strip('-')
      for field, value in chosen.items()
    )
    argument = f':{chosen[""]}' if '' in chosen else ''
    flags = (
      f'--config={config}{argument}',
      *fixed,
      *(f'--config.{field}={value}' for field, value in chosen.items() if field),
    )
    try:
      resolved = parse_config(list(flags))
    except InputError as error:
      raise InputError(f'run {name}: {error}') from error
    runs.append(Run(name, f'{root.rstrip("/")}/{name}', flags, resolved))
  names = [run.name for run in runs]
  for name in names:
    if names.count(name) > 1:
      raise InputError(
        f'two runs would be called {name!r}; their values '
        'differ only in signs that a folder cannot have'
      )
  return runs


def cluster_commands(runs: Sequence[Run], target: str, root: str) -> Iterator[str]:
  """Yields the lines of a shell script that does the sweep on a target."""
  if target == 'gcloud' and not root.startswith('gs://'):
    raise InputError(
      f'--workdir={root}: with --print=gcloud it must be a '
      'bucket (gs://...), since the machines are deleted'
    )
  slug = re.sub(r'[^a-z0-9]+', '-', root.rpartition('/')[2].lower()).strip('-')
  slug = (slug if slug[:1].isalpha() else f'sweep-{slug}')[:30].strip('-')
  for index, run in enumerate(runs):
    flags = shlex.join([*run.flags, f'--workdir={run.workdir}'])
    name = f'NAME={slug}-{index}'
    yield f'# {run.name}'
    if target == 'local':
      yield f'python -m echoforge_jax train {flags}'
    elif target == 'slurm':
      yield f'sbatch --job-name={slug}-{index} launch/slurm.sbatch {flags}'
    else:
      yield f'{name} launch/tpu_pod.sh create'
      yield f'{name} launch/tpu_pod.sh install'
      yield f'{name} launch/tpu_pod.sh run {flags}'
  if target == 'gcloud':
    yield '# When a run is done, delete its machines: they cost until then.'
    for index in range(len(runs)):
      yield f'# NAME={slug}-{index} launch/tpu_pod.sh delete'
