"""`verify` as a user meets it: exit status, summary, JSON, messages."""

import json
from pathlib import Path

import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.phantom.camus_writer import write_camus
from tests.phantom import ellipses


@pytest.fixture
def raw(tmp_path):
  root = tmp_path / 'raw'
  write_camus(
    root,
    num_patients=3,
    seed=1,
    config=ellipses.Config(),
    generate=ellipses.generate,
    progress=False,
  )
  return root


def test_clean_data_exits_0(raw, tmp_path, capsys):
  report = tmp_path / 'report.json'
  assert main(['verify', '--dataset=camus', f'--raw={raw}', f'--json={report}']) == 0
  out = capsys.readouterr().out
  assert out.strip().endswith('3 patients verified: 0 errors, 1 warnings')
  content = json.loads(report.read_text())
  assert content['errors'] == 0 and content['num_patients'] == 3
  assert [finding['code'] for finding in content['findings']] == ['es-before-ed']


def test_errors_exit_1_and_name_the_files(raw, tmp_path, capsys):
  folder = raw / 'database_nifti' / 'patient0002'
  (folder / 'patient0002_4CH_ED.nii.gz').write_bytes(b'broken')
  (folder / 'Info_2CH.cfg').unlink()
  report = tmp_path / 'report.json'
  assert main(['verify', '--dataset=camus', f'--raw={raw}', f'--json={report}']) == 1
  out = capsys.readouterr().out
  assert 'error damaged-file (1)' in out and 'error missing-file (1)' in out
  assert 'patient0002_4CH_ED.nii.gz' in out and 'remedy:' in out
  content = json.loads(report.read_text())
  assert {
    Path(finding['file']).name for finding in content['findings'] if finding['severity'] == 'error'
  } == {'patient0002_4CH_ED.nii.gz', 'Info_2CH.cfg'}


@pytest.mark.parametrize('make', [False, True])
def test_nothing_to_verify_exits_2(tmp_path, capsys, make):
  raw = tmp_path / 'empty'
  if make:
    raw.mkdir()
  assert main(['verify', '--dataset=camus', f'--raw={raw}']) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith(f'error: {raw}: ')
  if make:
    assert 'database_nifti/patient0001' in captured.err
    assert 'training/patient0001' in captured.err
  assert not captured.out


def test_misuse_exits_2(raw, tmp_path, capsys):
  assert (
    main(['verify', '--dataset=camus', f'--raw={raw}', f'--json={tmp_path}/no/such/folder.json'])
    == 2
  )
  assert 'no/such/folder.json' in capsys.readouterr().err
  assert main(['verify', '--dataset=ted', f'--raw={raw}']) == 2
  assert 'camus' in capsys.readouterr().err
