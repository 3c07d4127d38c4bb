"""The order of rooms (CONTRIBUTING.md) and how long files and functions are."""

import ast
import pathlib

from importlinter import cli

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = sorted((ROOT / 'echoforge_jax').rglob('*.py'))
PACKAGE_LINES, FILE_LINES, FUNCTION_LINES = 26_200, 400, 80


def _lines(paths):
  return sum(len(path.read_text().splitlines()) for path in paths)


def test_no_import_runs_backwards_or_in_a_circle():
  config = str(ROOT / 'pyproject.toml')
  assert cli.lint_imports(config, no_cache=True) == cli.EXIT_STATUS_SUCCESS


def test_one_module_alone_reads_and_writes_through_itk():
  """Its lock keeps threads apart (`volumes.ITK_LOCK`)."""
  users = [path.relative_to(ROOT) for path in PACKAGE if 'import SimpleITK' in path.read_text()]
  assert users == [pathlib.Path('echoforge_jax/formats/volumes.py')]


def test_files_and_functions_are_short():
  long = []
  for path in PACKAGE:
    where, text = path.relative_to(ROOT), path.read_text()
    if len(text.splitlines()) > FILE_LINES:
      long.append(f'{where}: {len(text.splitlines())} lines')
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines > FUNCTION_LINES:
          long.append(f'{where}: {node.name} has {lines} lines')
  assert not long, '\n'.join(long)


def test_package_is_short_and_its_tests_are_long():
  assert _lines(PACKAGE) <= PACKAGE_LINES
  assert _lines((ROOT / 'tests').rglob('*.py')) >= 0.6 * _lines(PACKAGE)
