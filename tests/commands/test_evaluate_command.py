"""The verb from a run's workdir to its report, on an untrained network."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from echoforge_jax import __main__ as entry
from echoforge_jax.clip import Clip
from echoforge_jax.data.prepare import prepare
from echoforge_jax.phantom.camus_writer import write_camus
from echoforge_jax.training import build, checkpoint
from echoforge_jax.training.workdir import claim_workdir
from tests.phantom import ellipses
from tests.readers import MadeUp

PATIENTS = {'train': ('p0', 'p1'), 'validation': ('p2',), 'test': ('p3', 'p4')}


def read_clip(patient, view):
  """A bright sector with a dark ellipse that shrinks from ED to ES."""
  rng = np.random.default_rng([int(patient[1]), view == '4CH'])
  rows, columns = np.mgrid[:60, :64]
  masks = np.stack(
    [((rows - 26) / 18) ** 2 + ((columns - 32) / (11 - t)) ** 2 < 1 for t in range(5)]
  ).astype(np.uint8)
  frames = rng.normal(np.where(masks == 1, 50, 140), 12).clip(0, 255)
  return Clip(
    patient=patient,
    view=view,
    frames=frames.astype(np.uint8),
    masks=masks,
    labeled=np.ones(5, bool),
    ed=0,
    es=4,
    spacing_mm=np.array([2.0, 2.0], np.float32),
    fps=50.0,
    quality='Good',
    ef_percent=50.0 + int(patient[1]),
  )


def untrained(shapes):
  """Small random numbers of these shapes, without compiling the network."""
  rng = np.random.default_rng(0)

  def leaf(shape):
    if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    return jnp.asarray(rng.normal(0, 0.1, shape.shape), shape.dtype)

  return jax.tree.map(leaf, shapes)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A workdir with the first checkpoint of a run, and its data."""
  root = tmp_path_factory.mktemp('run')
  (root / 'raw').mkdir()
  clips_of = lambda split: [(p, v) for p in PATIENTS[split] for v in ('2CH', '4CH')]  # noqa: E731
  reader = MadeUp(root / 'raw', clips_of, read_clip)
  prepare('camus', root / 'raw', root / 'data', 32, reader=reader)
  config = tiny.get_config()
  config.data.data_dir = str(root / 'data')
  claim_workdir(root / 'work', config)
  state = untrained(jax.eval_shape(build.make_parts(config).create_state))
  saver = checkpoint.Checkpointer(root / 'work', best_metric='dice_teacher')
  iterator = build.make_iterator(config, process_index=0, process_count=1)
  saver.save(0, state, iterator, {'dice_teacher': 0.5})
  saver.close()
  return root


def evaluate(root, *flags):
  return entry.main(['evaluate', f'--workdir={root / "work"}', *flags])


@pytest.mark.slow
def test_evaluate_writes_what_it_documents(run, tmp_path, capsys):
  out = tmp_path / 'out'
  assert evaluate(run, '--split=test', '--protocol=camus_full', f'--out={out}', '--seed=3') == 0
  printed = capsys.readouterr().out
  document = json.loads((out / 'metrics.json').read_text())
  assert document['protocol'] == 'camus_full'
  assert document['n_patients'] == 2 and document['n_frames'] == 2 * 2 * 10
  assert document['unit'] == 'mm'
  receipt = document['receipt']
  assert receipt['seed'] == 3 and receipt['checkpoint_step'] == 0
  assert receipt['split'] == 'test' and receipt['which'] == 'teacher'
  assert receipt['model'] == 'echoforge' and 'jax' in receipt['versions']
  assert receipt['synthetic'] is False and receipt['dataset'] == 'camus'
  assert receipt['split_scheme'] == 'official'
  assert len(receipt['raw_fingerprint']) == 64
  assert (out / 'report' / 'index.html').stat().st_size > 10_000
  dice = document['classes']['lv']['dice']['mean']
  assert f'Dice (%)   {100 * dice:.2f}' in printed
  assert str(out / 'metrics.json') in printed
  assert len((out / 'per_case.csv').read_text().splitlines()) == 1 + 4


@pytest.mark.slow
def test_evaluate_other_data_and_student(run, tmp_path):
  assert (
    evaluate(
      run,
      '--split=validation',
      '--protocol=camus_semi',
      f'--out={tmp_path}',
      f'--data_dir={run / "data"}',
      '--which=student',
      '--step=best',
    )
    == 0
  )
  document = json.loads((tmp_path / 'metrics.json').read_text())
  assert document['n_patients'] == 1 and document['n_frames'] == 4
  assert document['classes']['lv']['dice']['ci95'] == [None, None]
  assert document['receipt']['step_choice'] == 'best dice_teacher'
  assert document['receipt']['step_score'] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags,said',
  [
    (['--split=test', '--protocol=nope'], 'camus_semi'),
    (['--split=nope', '--protocol=camus_semi'], 'nope'),
    (['--split=test', '--protocol=camus_semi', '--data_dir=missing'], 'missing'),
  ],
)
def test_mistakes_exit_2_and_name_the_remedy(run, tmp_path, capsys, flags, said):
  assert evaluate(run, *flags, f'--out={tmp_path / "out"}') == 2
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_negative_seed_is_a_usage_error(run, capsys):
  with pytest.raises(SystemExit) as caught:
    evaluate(run, '--protocol=camus_semi', '--out=unused', '--seed=-1')
  assert caught.value.code == 2 and 'seed' in capsys.readouterr().err


@pytest.mark.slow
def test_raw_files_are_prepared_as_the_model_wants(run, tmp_path, capsys):
  raw, out = tmp_path / 'raw', tmp_path / 'out'
  made = {'config': ellipses.Config(), 'generate': ellipses.generate}
  write_camus(raw, num_patients=4, seed=3, num_test=1, progress=False, **made)
  flags = ['--dataset=camus', f'--raw={raw}', '--skip_whole_clip', f'--out={out}']
  assert evaluate(run, '--protocol=echonet', *flags) == 2
  assert 'scores echonet; choose another --protocol' in capsys.readouterr().err
  assert not out.exists()
  assert evaluate(run, '--protocol=camus_semi', *flags) == 0
  document = json.loads((out / 'metrics.json').read_text())
  assert document['n_patients'] == 1 and document['receipt']['synthetic'] is True
  assert (out / 'data' / 'camus' / 'official_32').is_dir()


def test_a_folder_that_is_no_run_exits_2(tmp_path, capsys):
  assert (
    entry.main(
      ['evaluate', f'--workdir={tmp_path}', '--split=test', '--protocol=camus_semi', '--out=unused']
    )
    == 2
  )
  assert 'config.json' in capsys.readouterr().err


@pytest.mark.slow
def test_an_output_that_cannot_be_written_exits_2(run, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  assert (
    evaluate(
      run, '--split=validation', '--protocol=camus_semi', f'--out={tmp_path / "file" / "out"}'
    )
    == 2
  )
  assert 'cannot be written' in capsys.readouterr().err


@pytest.mark.parametrize('second,said', [('absent', 'absent'), ('copy', 'training seeds 0, 0')])
def test_several_runs_are_checked_before_any_is_evaluated(run, tmp_path, capsys, second, said):
  if second == 'copy':
    shutil.copytree(run / 'work', tmp_path / second)
  out = tmp_path / 'out'
  assert (
    entry.main(
      [
        'evaluate',
        '--workdir',
        str(run / 'work'),
        str(tmp_path / second),
        '--protocol=camus_semi',
        f'--out={out}',
      ]
    )
    == 2
  )
  assert said in capsys.readouterr().err
  assert not out.exists()
