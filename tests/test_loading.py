"""Objects by 'module.path:Name', from sys.path and from the current folder."""

import sys

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.loading import load_object


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, with a package in it; sys.path and sys.modules as before."""
  package = tmp_path / 'my_nets'
  package.mkdir()
  (package / '__init__.py').touch()
  (package / 'good.py').write_text('class Net:\n  pass\n')
  (package / 'raises.py').write_text('x = 1\ny = [][x]\n')
  (package / 'syntax.py').write_text('x = 1\n\ndef f(:\n')
  (package / 'needs.py').write_text('import no_such_library\n')
  (package / 'leaves.py').write_text('import sys\n\n\nsys.exit(3)\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  before = set(sys.modules)
  yield package
  for name in set(sys.modules) - before:
    if name.startswith('my_nets'):
      del sys.modules[name]


def test_finds_a_class_in_the_current_folder(folder):
  found = load_object('my_nets.good:Net', '--dataset')
  assert found.__module__ == 'my_nets.good' and found.__name__ == 'Net'
  assert load_object('json:dumps', '--dataset')([1]) == '[1]'


@pytest.mark.parametrize(
  'name, words',
  [
    ('my_nets.good', "wanted 'module.path:Name'"),
    ('my_nets.good:', "wanted 'module.path:Name'"),
    ('../my_nets.good:Net', "wanted 'module.path:Name'"),
    ('my_nets.none:Net', "no module 'my_nets.none' on sys.path or in {cwd}"),
    ('no_nets.good:Net', "no module 'no_nets'"),
    ('my_nets.good:Nett', "good.py has no 'Nett'; it has Net"),
    ('my_nets.raises:Net', 'raises.py:2 (IndexError: list index out of range)'),
    ('my_nets.syntax:Net', 'syntax.py:3 (SyntaxError'),
    ('my_nets.needs:Net', "needs.py:1 (ModuleNotFoundError: No module named 'no_such_library')"),
    ('my_nets.leaves:Net', 'leaves.py:4 (SystemExit: 3)'),
  ],
)
def test_each_fault_is_one_line(folder, name, words):
  with pytest.raises(InputError) as caught:
    load_object(name, '--dataset')
  message = str(caught.value)
  assert words.format(cwd=folder.parent) in message
  assert message.startswith('--dataset') and '\n' not in message
