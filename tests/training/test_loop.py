"""The loop: resumes bit for bit, stops well, repeats itself."""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.training import checkpoint, loop, objectives, writers
from echoforge_jax.training.objectives import base as objective
from echoforge_jax.training.objectives.echoforge import echoforge
from tests.training import discs


@pytest.fixture
def run(tiny_config, tiny_model, make_iterator):
  """Trains the tiny model in a workdir."""

  def run(workdir, config=tiny_config, **options):
    return loop.train(
      config,
      workdir,
      model=tiny_model,
      iterator=make_iterator(example=discs.undrawn_disc),
      verbose=False,
      **options,
    )

  return run


def lines(workdir):
  text = (Path(workdir) / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def stored(workdir, which):
  _, variables, step = checkpoint.restore_for_inference(workdir, which)
  return jax.tree.map(np.asarray, variables), step


def assert_same_run(one, two):
  for which in ('student', 'teacher'):
    (a, steps_a), (b, steps_b) = stored(one, which), stored(two, which)
    assert steps_a == steps_b
    jax.tree.map(np.testing.assert_array_equal, a, b)
  assert lines(one) == lines(two)


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory, get_config, tiny_model, make_iterator, make_clip):
  """An uninterrupted run, validated at its end; and what it printed."""
  workdir = tmp_path_factory.mktemp('whole')
  config = get_config('tiny', eval={'every': 0}, data=discs.PLAIN)
  outcome = loop.train(
    config,
    workdir,
    model=tiny_model,
    iterator=make_iterator(example=discs.undrawn_disc),
    verbose=False,
  )
  return workdir, outcome


@pytest.mark.slow
def test_a_run_ends_with_its_last_step_saved(whole_run):
  workdir, outcome = whole_run
  assert outcome.step == 12 and outcome.signal is None
  assert [line['step'] for line in lines(workdir)] == [2, 4, 6, 8, 10, 12]
  variables, step = stored(workdir, 'teacher')
  assert step == 12
  jax.tree.map(
    np.testing.assert_array_equal, variables['params'], jax.device_get(outcome.state.teacher_params)
  )
  table = (workdir / 'parameters.txt').read_text()
  assert 'norm1/scale' in table and 'Total: 761' in table


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics(whole_run, run, tmp_path):
  run(tmp_path)
  assert_same_run(tmp_path, whole_run[0])


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_is_the_same(
  whole_run, run, tmp_path, monkeypatch, number
):
  write = writers.MetricWriters.write

  def interrupt(self, step, kind, scalars):
    write(self, step, kind, scalars)
    if step == 6:
      signal.raise_signal(number)

  before = signal.getsignal(number)
  with monkeypatch.context() as patch:
    patch.setattr(writers.MetricWriters, 'write', interrupt)
    outcome = run(tmp_path)
  # Step 6 is logged once step 7 is under way, which is then finished.
  assert outcome.signal == number and outcome.step == 7
  assert signal.getsignal(number) is before
  assert checkpoint.restore_for_inference(tmp_path)[2] == 7
  outcome = run(tmp_path)
  assert outcome.step == 12 and outcome.signal is None
  for which in ('student', 'teacher'):
    jax.tree.map(
      np.testing.assert_array_equal, stored(tmp_path, which)[0], stored(whole_run[0], which)[0]
    )


@pytest.mark.slow
def test_a_crash_resumes_from_the_last_checkpoint(whole_run, run, tmp_path, monkeypatch):
  write = writers.MetricWriters.write

  def crash(self, step, kind, scalars):
    write(self, step, kind, scalars)
    if step == 10:
      raise RuntimeError('power cut')

  with monkeypatch.context() as patch:
    patch.setattr(writers.MetricWriters, 'write', crash)
    with pytest.raises(RuntimeError, match='power cut'):
      run(tmp_path)
  assert lines(tmp_path)[-1]['step'] == 10
  assert checkpoint.restore_for_inference(tmp_path)[2] == 8
  run(tmp_path)
  assert_same_run(tmp_path, whole_run[0])


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(whole_run, run):
  workdir, _ = whole_run
  before = lines(workdir)
  assert run(workdir).step == 12
  assert lines(workdir) == before


@pytest.mark.slow
def test_another_config_is_refused(whole_run, run, tiny_config):
  config = tiny_config.copy_and_resolve_references()
  with config.unlocked():
    config.optimizer.learning_rate = 0.5
  with pytest.raises(InputError, match='optimizer.learning_rate is 0.001 ther'):
    run(whole_run[0], config)


def test_first_weights_that_are_not_there(run, tiny_config, tmp_path):
  config = tiny_config.copy_and_resolve_references()
  with config.unlocked():
    config.init_from = str(tmp_path / 'absent')
  with pytest.raises(InputError, match='absent.*wanted the workdir'):
    run(tmp_path / 'run', config)


def test_several_processes_leave_signals_to_jax(monkeypatch):
  """Its handler tells the other processes; ours would replace it."""
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with loop._StopSignals():
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_validation_scores_student_and_teacher(run, tiny_config, make_clip, tmp_path, capsys):
  config = tiny_config.copy_and_resolve_references()
  with config.unlocked():
    config.eval.every = 8
    config.eval.best_metric = 'dice_teacher'
  clips = [
    {'video': clip['video_weak'], 'masks': clip['masks']}
    for clip in (make_clip(seed) for seed in range(100, 105))
  ]
  outcome = run(tmp_path, config, validation=clips)
  scored = [line for line in lines(tmp_path) if line['kind'] == 'eval']
  assert [line['step'] for line in scored] == [8, 12]
  assert scored[-1]['dice_teacher'] == outcome.scores['dice_teacher']
  assert 0 <= outcome.scores['dice_student'] <= 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_naming_the_step(
  run, tiny_config, tmp_path, monkeypatch
):
  def explodes(**options):
    inner = echoforge(**options)

    def loss(outputs, teacher, batch, values, *more):
      value, logged = inner.loss(outputs, teacher, batch, values, *more)
      value = value / (values.fraction != 6 / 12)  # The seventh update.
      return value, logged | {'loss': objective.average(value)}

    return objective.Objective(inner.student, inner.teacher, loss)

  monkeypatch.setattr(objectives, 'objective_function', lambda name: explodes)
  config = tiny_config.copy_and_resolve_references()
  with config.unlocked():
    config.objective.name = 'explodes'
  with pytest.raises(loop.DivergenceError, match='loss is inf at step 7'):
    run(tmp_path, config)
  # Nothing that is not finite was saved.
  variables, step = stored(tmp_path, 'student')
  assert step == 4
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from absl import flags
flags.FLAGS.mark_as_parsed()
from echoforge_jax.training import loop
from tests.configs import load_config
from tests.training import discs

if __name__ == '__main__':
  config = load_config('tiny', eval=dict(every=0), num_steps=60,
                       checkpoint_every=12, data=discs.PLAIN)
  outcome = loop.train(config, sys.argv[1], model=discs.TinyModel(),
                       iterator=discs.disc_iterator(
                         example=discs.undrawn_disc))
  assert outcome.step == 60
"""


def start(script, workdir):
  return subprocess.Popen(
    [sys.executable, str(script), str(workdir)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_nothing(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  process = start(script, killed)
  deadline = time.monotonic() + 240
  while not any(path.name.isdigit() for path in (killed / 'checkpoints').glob('*')):
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline, 'no checkpoint within four minutes'
    time.sleep(0.02)
  process.kill()
  process.communicate()
  assert lines(killed)[-1]['step'] < 60  # Killed in the middle.
  for workdir in (killed, whole):
    process = start(script, workdir)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    if workdir == killed:
      assert 'resumed at step' in output
  assert_same_run(killed, whole)
