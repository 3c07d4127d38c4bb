"""The demo in small: every stage, resumed, refused."""

import pathlib

import pytest

from echoforge_jax import demo
from echoforge_jax.__main__ import main
from echoforge_jax.errors import InputError

# The paper's plain encoder-decoder: it compiles in a fifth of the time.
CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'tiny.py:baseline'


@pytest.mark.slow
def test_demo_runs_and_continues(tmp_path):
  lines = []
  settings = dict(
    num_patients=3, num_steps=2, image_size=32, config_path=CONFIG, say=lines.append, progress=False
  )
  done = demo.run_demo(tmp_path / 'demo', **settings)
  assert list(done.seconds) == [
    'phantom',
    'verify',
    'prepare',
    'train',
    'evaluate camus_full',
    'evaluate camus_semi',
    'segment',
  ]
  assert done.overlay.stat().st_size > 1000
  assert set(done.reports) == {'camus_full', 'camus_semi'}
  assert all(page.stat().st_size > 1000 for page in done.reports.values())
  assert done.results['frames'] == 30 and done.results['model']['step'] == 2
  text = '\n'.join(lines)
  assert 'Dice' in text and 'not for clinical use' in text
  for path in (*done.reports.values(), done.overlay):
    assert str(path) in text
  # Continued with only its last stage missing, it redoes that one alone.
  before = {path: path.stat().st_mtime_ns for path in done.reports.values()}
  comparison = done.overlay.parents[1] / 'comparison.png'
  assert comparison.stat().st_size > 1000 and str(comparison) in text
  comparison.unlink()
  again = demo.run_demo(tmp_path / 'demo', **settings)
  assert again.results == done.results
  assert before == {path: path.stat().st_mtime_ns for path in before}
  with pytest.raises(InputError, match='num_steps 2 there, 3 now'):
    demo.run_demo(tmp_path / 'demo', **settings | {'num_steps': 3})


def test_demo_refuses_a_foreign_folder(tmp_path, capsys):
  (tmp_path / 'thesis.tex').write_text('mine')
  assert main(['demo', f'--out={tmp_path}']) == 2
  assert 'not empty and holds no demo' in capsys.readouterr().err
  assert main(['demo', f'--out={tmp_path / "new"}', '--patients=2']) == 2
  assert 'at least 3' in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()
