"""Runs many trainings: some at a time, each in processes of its own.

Both `study` and `launch/sweep.py` use this. Callers leave out what is finished;
`train` itself resumes what was interrupted.
"""

from collections.abc import Callable, Collection, Sequence
import dataclasses
import functools
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from echoforge_jax.experiments import processes

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_STOPPED = (130, 143)  # Statuses of `train` when a signal made it save.


@dataclasses.dataclass(frozen=True)
class Job:
  """Commands that run one after the other."""

  name: str  # No two jobs share one.
  # Arguments of `python -m echoforge_jax`, each with the log that its output is appended to.
  commands: tuple[tuple[tuple[str, ...], Path], ...]


say_at_once = functools.partial(print, flush=True)


def own_cores() -> list[int]:
  """Returns the numbers of the processor's cores that this process may use."""
  if sys.platform == 'linux':
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


class _Running:
  """A job whose commands are being run on one slot of the machine."""

  def __init__(self, job: Job, slot: int, env: dict[str, str], cores: Collection[int]):
    self.job, self.slot, self.seconds = job, slot, []
    self._env, self._cores, self._left = env, cores, list(job.commands)
    self._start()

  def _start(self) -> None:
    arguments, self._log = self._left.pop(0)
    self._log.parent.mkdir(parents=True, exist_ok=True)
    self._since = time.monotonic()
    with self._log.open('ab') as file:  # A resumed run keeps its output.
      self.child = processes.spawn(
        [sys.executable, '-m', 'echoforge_jax', *arguments],
        cores=self._cores,
        env=self._env,
        stdout=file,
        stderr=subprocess.STDOUT,
      )

  def state(self, stopping: bool) -> str | None:
    """Starts the next command if one is due; None while something runs."""
    status = processes.status(self.child)
    if status is None:
      return None
    self.seconds.append(time.monotonic() - self._since)
    if status == 0 and not self._left:
      return 'done'
    if status in _STOPPED or (status == 0 and stopping):
      return 'stopped'
    if status == 0:
      self._start()
      return None
    lines = self._log.read_text(errors='replace').strip().splitlines()
    return f'failed ({status}); {self._log}: {lines[-1] if lines else "empty"}'


def _environment(slot: int, at_once: int, gpus_each: int) -> dict[str, str]:
  env = dict(os.environ, PYTHONUNBUFFERED='1')
  env['PYTHONPATH'] = os.pathsep.join(
    [str(_PACKAGE_PARENT), *filter(None, [env.get('PYTHONPATH')])]
  )
  if gpus_each:
    all_gpus = env.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(gpus_each * at_once)))
    own = all_gpus.split(',')[slot * gpus_each : (slot + 1) * gpus_each]
    env['CUDA_VISIBLE_DEVICES'] = ','.join(own)
  return env


def run_jobs(
  jobs: Sequence[Job],
  *,
  at_once: int = 1,
  gpus_each: int = 0,
  share_cores: bool = False,
  on_done: Callable[[Job, list[float]], str] = lambda job, seconds: '',
  say: Callable[[str], None] = say_at_once,
) -> tuple[dict[str, str], int]:
  """Runs jobs; one that fails does not stop the others.

  SIGTERM and SIGINT are passed on as SIGTERM, so that trainings save, and no other job starts;
  a second one kills. Call it from the main thread.

  Args:
    jobs: in the order of their start.
    at_once: jobs that run side by side.
    gpus_each: GPUs that a job sees; 0 leaves them all visible.
    share_cores: a job keeps to its share of the processor's cores (Linux).
    on_done: gets a job that succeeded and the seconds of its commands; adds text to its line.
    say: gets a line per event.

  Returns:
    Name -> 'done', 'stopped', 'failed (STATUS); LOG: last line' or 'not started'; and the exit
    status: 0, 1 where a job failed, 128 + n after signal n.
  """
  states = {job.name: 'not started' for job in jobs}
  waiting, slots, running = list(jobs), list(range(at_once)), []
  cores = own_cores() if share_cores and sys.platform == 'linux' else []
  with processes.StopSignals() as signals:
    try:
      handled = 0
      while running or (waiting and not signals.received):
        while waiting and slots and not signals.received:
          job, slot = waiting.pop(0), slots.pop(0)
          env = _environment(slot, at_once, gpus_each)
          running.append(_Running(job, slot, env, cores[slot::at_once]))
          say(f'  started {job.name}')
        for number in signals.received[handled:]:
          handled += 1
          _stop(running, number, handled, say)
        for one in list(running):
          if (state := one.state(bool(signals.received))) is None:
            continue
          running.remove(one)
          slots.append(one.slot)
          states[one.job.name] = state
          text = f'  {one.job.name}: {state}, {sum(one.seconds):.0f} s'
          if state == 'done':
            text += on_done(one.job, one.seconds)
          say(text)
        time.sleep(0.1)
    finally:
      for one in running:
        processes.kill(one.child)
  if signals.received:
    return states, 128 + signals.received[0]
  return states, int(any(state != 'done' for state in states.values()))


def _stop(running: list[_Running], number: int, count: int, say) -> None:
  if count == 1:
    say(f'stopped by {signal.Signals(number).name}; waiting for the runs under way to save')
    for one in running:
      one.child.send_signal(signal.SIGTERM)
  else:
    say('killed')
    for one in running:
      processes.kill(one.child)
