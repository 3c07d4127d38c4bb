"""`phantom` as a user meets it, with the real generator."""

import json

import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.formats import camus
from echoforge_jax.phantom import echonet_traps
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.echonet_writer import write_echonet
from echoforge_jax.phantom.patient import generate_patient
from tests.phantom import beating

# Rendering a patient takes longer than compiling for it.
pytestmark = pytest.mark.optimized


@pytest.mark.slow
def test_phantom_then_verify_then_read(tmp_path, capsys):
  raw = tmp_path / 'raw'
  flags = ['phantom', '--layout=camus', f'--out={raw}', '--patients=3', '--seed=4']
  assert main(flags) == 0
  assert 'phantom.json' in capsys.readouterr().out
  assert main(['verify', '--dataset=camus', f'--raw={raw}']) == 0
  out = capsys.readouterr().out
  assert '3 patients verified: 0 errors' in out
  truth = json.loads((raw / 'phantom.json').read_text())['patients']
  patient = generate_patient(4, 1)
  facts = truth['patient0002']
  assert facts['ef_percent'] == patient.ef_percent
  assert facts['edv_ml'] == patient.edv_ml
  for view, made in patient.clips.items():
    clip = camus.read_clip(raw, 'patient0002', view)
    np.testing.assert_array_equal(clip.frames, made.frames)
    np.testing.assert_array_equal(clip.masks, made.masks)
    np.testing.assert_allclose(clip.spacing_mm, 0.308, rtol=1e-6)
    assert clip.fps == pytest.approx(made.fps, abs=0.051)
    assert clip.quality == made.quality
    assert clip.ef_percent == round(patient.ef_percent)
  # A second run finds everything done.
  stamps = {path: path.stat().st_mtime_ns for path in raw.rglob('*.nii.gz')}
  assert main(flags) == 0
  assert stamps == {path: path.stat().st_mtime_ns for path in raw.rglob('*.nii.gz')}
  assert main([*flags[:-1], '--seed=5']) == 2
  assert 'another seed' in capsys.readouterr().err


@pytest.mark.parametrize(
  'flags',
  [
    [],
    ['--layout=dicom', '--out=x'],
    ['--out=x', '--patients=many'],
    ['--out=x', '--camus_format=png'],
    ['--out=x', '--pat=3'],
    ['--calibrate', '--patients=0'],
    ['--out=x', '--traps=all'],
  ],
)
def test_misuse_exits_2(flags, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as stop:
    main(['phantom', *flags])
  assert stop.value.code == 2
  assert 'usage: echoforge phantom' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_no_patients_exits_2(tmp_path, capsys):
  assert main(['phantom', f'--out={tmp_path}/x', '--patients=0']) == 2
  assert 'num_patients is 0' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
  'text, traps', [('all', list(echonet_traps.TRAPS)), ('blank, row_count', ['blank', 'row_count'])]
)
def test_echonet_with_traps(text, traps, tmp_path, capsys):
  """The command finds a phantom of the same flags finished, no other."""
  size = beating.Config(height=100, width=112)
  num_patients = len(traps) + 3
  truth = write_echonet(
    tmp_path / 'x',
    num_patients=num_patients,
    seed=3,
    config=PhantomConfig.camus(),
    num_test=2,
    traps=traps,
    progress=False,
    generate=lambda seed, index, config: beating.generate(seed, index, size),
  )
  flags = {
    '--layout': 'echonet',
    '--out': tmp_path / 'x',
    '--patients': num_patients,
    '--seed': 3,
    '--test': 2,
    '--traps': text,
  }

  def run(**changes):
    given = flags | {f'--{key}': value for key, value in changes.items()}
    return main(['phantom', *(f'{key}={given[key]}' for key in given)])

  assert run() == 0
  assert f'trap blank: {truth["planted"]["blank"]}' in capsys.readouterr().out
  for changes, field in (
    ({'patients': num_patients + 1}, 'num_patients'),
    ({'seed': 4}, 'seed'),
    ({'test': 1}, 'num_test'),
    ({'traps': 'one_frame'}, 'traps'),
  ):
    assert run(**changes) == 2
    assert field in capsys.readouterr().err


def test_unknown_trap_exits_2(tmp_path, capsys):
  assert main(['phantom', '--layout=echonet', f'--out={tmp_path}/x', '--traps=gremlin']) == 2
  assert 'gremlin' in capsys.readouterr().err
  assert not (tmp_path / 'x').exists()
