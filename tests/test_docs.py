"""Paths, verbs, options, config fields and names in the docs exist."""

import pathlib
import re

import pytest

from echoforge_jax.__main__ import VERBS
from echoforge_jax.config import base_config, flatten

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'echoforge_jax'
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), ROOT / 'launch' / 'README.md']
PAGES = [page for page in PAGES if page.name != 'CHANGELOG.md']
# What the docs name as outputs, as examples or as other projects'.
OTHERS = {
  'benchmarks/results/speed_gpu',
  'src/xpk/parser/workload.py',
  'config.data.stream',
  'config.objective.bend_weight',
  'config.json',
  'config.lock',
  'config.py',
}
FOLDERS = 'echoforge_jax|configs|docs|benchmarks|launch|tests'
SOURCES = [
  path
  for folder in ('echoforge_jax', 'configs', 'benchmarks', 'launch', 'docs')
  for path in (ROOT / folder).rglob('*')
  if path.suffix in ('.py', '.sh', '.sbatch', '.yaml')
]
FILES = [*SOURCES, *(ROOT / 'tests').rglob('*.py')]
SOURCE = '\n'.join(path.read_text() for path in SOURCES)
ROOMS = {path.stem for path in PACKAGE.iterdir()}


@pytest.fixture(scope='module', params=PAGES, ids=lambda page: page.name)
def text(request):
  return request.param.read_text()


def _lacking(found, exists):
  return sorted({name for name in found if not exists(name)} - OTHERS)


def test_paths(text):
  found = re.findall(rf'(?<![\w/.-])((?:{FOLDERS})/[\w./*-]*\w)', text)
  assert not _lacking(found, lambda name: any(ROOT.glob(name)))
  found = re.findall(r'`((?:\w+/)*\w+\.py)`', text)
  assert not _lacking(
    found, lambda name: any(str(p).endswith(f'/{name}') for p in FILES) or (ROOT / name).exists()
  )


def test_verbs_and_options(text):
  found = re.findall(r'(?:-m echoforge_jax|\$?echoforge) ([a-z]+) --', text)
  assert not _lacking(found, lambda name: name in VERBS)
  lines = [
    line
    for line in text.splitlines()
    if re.search(r'echoforge |echoforge_jax|benchmarks|`--', line)
    and not re.search('xpk|docker', line)
  ]
  found = re.findall(r'(?<![\w=-])--([a-z_]+)\b(?![.-])', '\n'.join(lines))
  assert not _lacking(found, lambda name: re.search(rf"--{name}\b|'{name}'", SOURCE))


def test_config_fields(text):
  fields = flatten(base_config().to_dict()) | flatten(base_config('sscf').to_dict())
  known = {f'config.{name}' for name in fields}
  known |= {name.rpartition('.')[0] for name in known}
  found = re.findall(r'(?<![\w.])(config(?:\.[a-z_]+)+)', text)
  assert not _lacking(found, lambda name: name in known)


def _is_defined(name):
  """Follows folders to a module, then looks for the name in its text."""
  here, parts = PACKAGE, name.split('.')
  while parts and (here / parts[0]).is_dir():
    here = here / parts.pop(0)
  if parts and (here / f'{parts[0]}.py').is_file():
    here = here / f'{parts.pop(0)}.py'
  if not parts:
    return True
  files = [here] if here.is_file() else here.glob('*.py')
  return any(re.search(rf'\b{parts[0]}\b', f.read_text()) for f in files)


def test_names_of_modules(text):
  found = re.findall(r'`((?:\w+\.)+\w+)(?:\(.*?\))?`', text)
  files = ('.json', '.jsonl', '.npy', '.npz', '.py', '.csv')
  found = [name for name in found if not name.endswith(files)]
  assert not _lacking(
    [name for name in found if name.split('.')[0] in ROOMS - {'config'}], _is_defined
  )
