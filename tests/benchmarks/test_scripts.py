"""Every script of benchmarks/ finds what it imports of the package."""

import importlib
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / 'benchmarks'


@pytest.mark.parametrize('path', SCRIPTS.glob('*.py'), ids=lambda p: p.stem)
def test_imports(path):
  if 'playwright' in path.read_text():
    pytest.importorskip('playwright')
  importlib.import_module(f'benchmarks.{path.stem}')
