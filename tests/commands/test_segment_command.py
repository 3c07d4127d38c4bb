"""segment, as its users call it: exit status and lines."""

import json

import grain
import jax
import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.training import build, checkpoint
from echoforge_jax.training.workdir import claim_workdir
from tests.configs import load_config


@pytest.fixture(scope='module', autouse=True)
def cheap_compilation():
  """Optimised code would compile for longer than these tests run."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run that has not learned anything."""
  config = load_config('tiny')
  state = jax.eval_shape(build.make_parts(config).create_state)
  generator = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: generator.normal(0, 0.2, x.shape).astype(x.dtype),
    state.replace(rng=state.step),
  )
  state = state.replace(rng=jax.random.key(0))
  folder = tmp_path_factory.mktemp('run')
  claim_workdir(folder, config)
  checkpointer = checkpoint.Checkpointer(folder)
  checkpointer.save(1, state, iter(grain.MapDataset.range(4).to_iter_dataset()))
  checkpointer.close()
  return folder


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / 'clip.npz'
  frames = np.random.default_rng(0).integers(
    0, 255, (4, 40, 52), dtype=np.uint8
  )
  np.savez(path, frames=frames, fps=30.0)
  return path


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
  assert f'error: {bad}: found an empty file' in printed
  assert '1 of 2 clips segmented' in printed and '1 failed' in printed
  result = json.loads((out / 'clip' / 'result.json').read_text())
  assert result['frames'] == 4 and result['spacing_mm'] == [0.8, 0.9]
  assert result['model']['step'] == 1
  assert (
    main(['segment', f'--checkpoint={workdir}', f'--out={out}', str(clip)]) == 0
  )


def test_a_folder_that_cannot_be_written_fails_that_clip_only(
  workdir, clip, tmp_path, capsys
):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'clip').write_text('in the way')
  assert (
    main(['segment', f'--checkpoint={workdir}', f'--out={out}', str(clip)]) == 1
  )
  printed = capsys.readouterr().out
  assert f'error: {clip}' in printed and '0 of 1 clips' in printed


@pytest.mark.parametrize(
  'checkpoint_dir,message',
  [('nowhere', 'no such'), ('none.safetensors', 'no such file')],
)
def test_no_model_is_misuse(checkpoint_dir, message, clip, tmp_path, capsys):
  assert (
    main(
      [
        'segment',
        f'--checkpoint={checkpoint_dir}',
        f'--out={tmp_path}',
        str(clip),
      ]
    )
    == 2
  )
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
