"""segment, as its users call it: exit status and lines."""

import json

import numpy as np
import pytest

import echoforge_jax
from echoforge_jax.__main__ import main
from tests.configs import load_config
from tests.inference.clips import make_workdir, noise


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp('run'), load_config('tiny'))


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / 'clip.npz'
  np.savez(path, frames=noise(4, (40, 52)), fps=30.0)
  return path


@pytest.mark.slow
def test_good_and_bad_inputs(workdir, clip, tmp_path, capsys):
  bad = tmp_path / 'bad.avi'
  bad.write_bytes(b'')
  out = tmp_path / 'out'
  status = main(
    [
      'segment',
      f'--checkpoint={workdir}',
      f'--out={out}',
      '--spacing_mm=0.8,0.9',
      str(bad),
      str(clip),
    ]
  )
  assert status == 1
  printed = capsys.readouterr().out
  assert 'not for clinical use' in printed
  assert f'model: {workdir} (echoforge, ' in printed
  assert 'step 3), trained on data prepared as camus, which are not here' in printed
  assert f'error: {bad}: found an empty file' in printed
  assert '1 of 2 clips segmented' in printed and '1 failed' in printed
  result = json.loads((out / 'clip' / 'result.json').read_text())
  assert result['frames'] == 4 and result['spacing_mm'] == [0.8, 0.9]
  assert result['model']['step'] == 3
  flags = [f'--checkpoint={workdir}', '--step=best', f'--out={out}']
  assert main(['segment', *flags, str(clip)]) == 0
  result = json.loads((out / 'clip' / 'result.json').read_text())
  assert result['model']['step_choice'] == 'best dice_teacher'


@pytest.mark.slow
@pytest.mark.parametrize('lag', [None, 0])
def test_python_gives_the_numbers_of_the_shell(workdir, clip, lag, tmp_path, capsys):
  flags = [f'--checkpoint={workdir}', f'--out={tmp_path}', '--spacing_mm=0.8']
  options = {'spacing_mm': (0.8, 0.8)}
  if lag is not None:
    flags, options = [*flags, f'--lag={lag}'], options | {'lag': lag}
  assert main(['segment', *flags, str(clip)]) == 0
  capsys.readouterr()
  written = json.loads((tmp_path / 'clip' / 'result.json').read_text())
  found = echoforge_jax.segment_file(clip, workdir, **options)
  assert found.content == written
  assert list(found.flags) == written['flags']
  assert found.masks.shape == (4, 40, 52)
  assert (found.masks == 1).sum((1, 2)).tolist() == written['area_px']
  segmenter = echoforge_jax.load(workdir)
  again = echoforge_jax.segment_file(clip, segmenter, **options)
  assert again.content == written


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_fails_that_clip_only(workdir, clip, tmp_path, capsys):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'clip').write_text('in the way')
  assert main(['segment', f'--checkpoint={workdir}', f'--out={out}', str(clip)]) == 1
  printed = capsys.readouterr().out
  assert f'error: {clip}' in printed and '0 of 1 clips' in printed


@pytest.mark.parametrize(
  'checkpoint_dir,message', [('nowhere', 'no such'), ('none.safetensors', 'no such file')]
)
def test_no_model_is_misuse(checkpoint_dir, message, clip, tmp_path, capsys):
  assert main(['segment', f'--checkpoint={checkpoint_dir}', f'--out={tmp_path}', str(clip)]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error


def test_one_clip_is_no_pair(workdir, clip, tmp_path, capsys):
  assert (
    main(
      [
        'segment',
        f'--checkpoint={workdir}',
        f'--out={tmp_path}',
        '--pair',
        str(clip),
        f'{clip.parent}/./{clip.name}',
      ]
    )
    == 2
  )
  assert 'one clip twice' in capsys.readouterr().err


@pytest.mark.parametrize(
  'flags',
  [
    [],
    ['--checkpoint=x', '--out=y'],
    ['--checkpoint=x', 'a.avi'],
    ['--out=y', '--pair', 'a.avi'],
    ['--out=y', '--lag=x', 'a.avi'],
    ['--checkpoint=x', '--out=y', '--fps=0', 'a.avi'],
    ['--checkpoint=x', '--out=y', '--spacing_mm=1,2,3', 'a.avi'],
    ['--checkpoint=x', '--out=y', '--unknown=1', 'a.avi'],
  ],
)
def test_usage_errors_exit_with_two(flags, capsys):
  with pytest.raises(SystemExit) as caught:
    main(['segment', *flags])
  assert caught.value.code == 2
  capsys.readouterr()
