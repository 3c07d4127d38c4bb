"""The training loop: compile once, step, log, validate, save, stop."""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import math
import signal
import threading
import time
from typing import Any

from clu import parameter_overview
from etils import epath
import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, checkpoint, steps, warm_start
from echoforge_jax.training.validation import Validator, stack_clips
from echoforge_jax.training.workdir import claim_workdir, workdir_path
from echoforge_jax.training.writers import Console, MetricWriters

# Steps that may be under way on the device before the host waits for one.
MAX_IN_FLIGHT = 3


class DivergenceError(FloatingPointError):
  """A loss or gradient that is not finite; the message names the step."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended."""

  step: int  # Updates done, all of them saved.
  signal: int | None  # The signal that stopped it early.
  scores: dict[str, float]  # Of the last validation.
  state: Any  # The final state, on the devices.


@dataclasses.dataclass(frozen=True)
class Run:
  """What stays the same while a run goes on."""

  config: ConfigDict
  parts: build.Parts
  state_sharding: Any
  batch_sharding: NamedSharding
  iterator: Any
  checkpointer: checkpoint.Checkpointer
  validator: Validator | None
  writers: MetricWriters
  console: Console


class InputWait:
  """Adds up the time in which the device stood still for want of a host batch.

  An upper bound, found without waiting for the device: where the latest step is over by the time
  its successor's batch has come, the whole wait for that batch counts.
  """

  def __init__(self):
    self.idle = 0.0  # Seconds, so far.

  def get(self, batch: Callable[[], Any], running: Any) -> Any:
    """Returns `batch()`, and counts the wait if arrays `running` are ready."""
    start = time.perf_counter()
    result = batch()
    waited = time.perf_counter() - start
    # The wait for the first batch counts for nothing.
    if running is not None and all(leaf.is_ready() for leaf in jax.tree.leaves(running)):
      self.idle += waited
    return result


class _StopSignals:
  """Turns the first SIGTERM or SIGINT into a flag, the second into an end.

  Several processes must agree on the step to stop at: there JAX's own handler of SIGTERM spreads
  the news, and a handler set here would replace it.
  """

  def __init__(self):
    self.received: int | None = None
    self._previous: dict[int, Any] = {}

  def _handle(self, number: int, frame: Any) -> None:
    if self.stopped():
      raise KeyboardInterrupt
    self.received = number

  def stopped(self) -> bool:
    """Returns whether a signal came; of several processes never."""
    return self.received is not None

  def __enter__(self) -> '_StopSignals':
    # Python allows handlers in the main thread only.
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)


class _MetricLog:
  """Metrics that may still be on their way, and their averages."""

  def __init__(self):
    self._pending: list[tuple[int, Any]] = []

  def add(self, step: int, metrics: Any) -> None:
    """Keeps one step's metrics; waits for an earlier step."""
    self._pending.append((step, metrics))
    if len(self._pending) > MAX_IN_FLIGHT:
      jax.block_until_ready(self._pending[-1 - MAX_IN_FLIGHT][1])

  def check(self, count: int | None = None) -> None:
    """Raises `DivergenceError` naming the first of `count` steps that is not finite."""
    fetched = jax.device_get(self._pending[:count])
    self._pending[:count] = fetched
    for step, metrics in fetched:
      for name in ('loss', 'grad_norm'):
        value = float(metrics[name].total)
        if not math.isfinite(value):
          raise DivergenceError(
            f'{name} is {value} at step {step}; nothing of this step was '
            'saved. Lower config.optimizer.learning_rate, set '
            'config.optimizer.clip_norm to 1, or train in float32'
          )

  def flush(self, last: int) -> dict[str, float]:
    """Averages and forgets the steps up to `last`."""
    count = sum(step <= last for step, _ in self._pending)
    self.check(count)
    done, self._pending = self._pending[:count], self._pending[count:]
    scalars = {}
    for name in done[0][1] if done else ():
      if counted := sum(float(metrics[name].count) for _, metrics in done):
        scalars[name] = sum(float(metrics[name].total) for _, metrics in done) / counted
    return scalars


def train(
  config: ConfigDict,
  workdir: epath.PathLike,
  *,
  model: nn.Module | None = None,
  iterator: Any = None,
  validation: Iterable[Mapping[str, Any]] | None = None,
  verbose: bool = True,
) -> Outcome:
  """Trains a config in a workdir; continues what the workdir holds.

  A run that was interrupted, by whatever means, and started again ends with the same parameters,
  bit for bit, as one that was not (same devices). A SIGTERM or SIGINT ends the run early with a
  checkpoint; of several processes, a SIGTERM to any of them ends all at the same step.

  Args:
    workdir: directory, or a bucket's address (`gs://...`); created.
    model: replaces `config.model`.
    iterator: replaces the pipeline's; has `get_state` and `set_state`.
    validation: clips that replace the validation split.
  """
  build.check(config)
  counted = iterator is None or not config.num_steps
  num_clips = build.count_clips(config) if counted else None
  config = build.fix_length(config, num_clips)
  mesh = mesh_lib.make_mesh(config.num_devices, config.fsdp)
  mesh_lib.check_batch(
    config.batch_size, mesh, config.unlabeled_batch_size, config.grad_accum_steps
  )
  primary = jax.process_index() == 0
  console = Console(config, enabled=verbose and primary)
  parts = build.make_parts(config, model, mesh)
  sharding = mesh_lib.state_sharding(jax.eval_shape(parts.create_state), mesh)
  # Traced before anything is written: an option that does not fit stops here.
  create_state = jax.jit(parts.create_state, out_shardings=sharding).trace()
  said = ()
  if iterator is None:
    said = build.describe_labels(config), build.describe_frames(config)
    index, count = mesh_lib.process_place(mesh)
    iterator = build.make_iterator(config, process_index=index, process_count=count)
  workdir = workdir_path(workdir)
  claim_workdir(workdir, config)
  console.length(num_clips)
  for line in filter(None, said):
    console.say(line)
  with contextlib.ExitStack() as stack:
    checkpointer = checkpoint.Checkpointer(
      workdir, keep=config.keep_checkpoints, best_metric=config.eval.best_metric
    )
    stack.callback(checkpointer.close)
    writers = MetricWriters(workdir, start_step=checkpointer.latest_step() or 0, is_primary=primary)
    stack.callback(writers.close)
    run = Run(
      config=config,
      parts=parts,
      state_sharding=sharding,
      batch_sharding=mesh_lib.batch_sharding(mesh),
      iterator=iterator,
      checkpointer=checkpointer,
      validator=_make_validator(config, parts, validation, mesh, sharding),
      writers=writers,
      console=console,
    )
    state, step = _first_state(run, create_state)
    _describe_parameters(state.params, workdir, console)
    return _continue(run, state, step)


def _make_validator(
  config: ConfigDict, parts: build.Parts, clips: Any, mesh: Mesh, sharding: Any
) -> Validator | None:
  if not config.eval.every:
    return None
  # As many clips on every device; the last batch is padded.
  batches = stack_clips(
    build.make_validation(config) if clips is None else clips,
    batch_size=-(-config.eval.batch_size // mesh.size) * mesh.size,
    max_clips=config.eval.max_clips,
  )
  return Validator(parts.eval_step, batches, tuple(config.data.classes), mesh, sharding)


def _first_state(run: Run, create_state: Any) -> tuple[Any, int]:
  """Returns the latest state of the workdir, or one of `init_from`, or random; and its updates."""
  step = run.checkpointer.latest_step()
  if step is not None:
    abstract = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      create_state.out_info,
      run.state_sharding,
    )
    state = run.checkpointer.restore(step, abstract, run.iterator)
    run.console.say(f'resumed at step {step}')
    return state, step
  # Runs once: on a CPU, optimizing it takes longer than everything it does.
  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
  state = create_state.lower().compile(compiler_options=options)()
  if init_from := run.config.init_from:
    options = {'model': run.parts.model, 'classes': run.config.data.classes}
    state, text = warm_start.from_path(state, init_from, **options)
    run.console.say(text)
  return state, 0


def _describe_parameters(params: Any, workdir: epath.Path, console: Console):
  """Writes clu's table to `parameters.txt`; prints one line per module."""
  path = workdir / 'parameters.txt'

  def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  if jax.process_index() == 0:
    path.write_text(parameter_overview.get_parameter_overview(params, include_stats=False) + '\n')
  modules = '  '.join(f'{name} {count(tree):,}' for name, tree in params.items())
  console.say(f'parameters: {count(params):,} ({modules}); every one is listed in {path}')


def _compile(run: Run, state: Any, batch: Any) -> Any:
  """Compiles the step ahead of time, so that it can never trace again."""
  start = time.perf_counter()
  step = steps.jit_train_step(run.parts.train_step, run.state_sharding, run.batch_sharding)
  compiled = step.lower(state, batch).compile()
  run.console.say(f'compiled in {time.perf_counter() - start:.1f} s')
  return compiled


def _validate(run: Run, state: Any, step: int, stopped: Callable[[], bool]) -> dict[str, float]:
  """Scores a state and writes the scores; none if a signal comes meanwhile."""
  if scores := run.validator(state, stopped):
    run.writers.write(step, 'eval', scores)
    shown = (f'{name} {value:.4f}' for name, value in scores.items())
    run.console.say(f'step {step}  validation  ' + '  '.join(shown))
  return scores


def _continue(run: Run, state: Any, step: int) -> Outcome:
  """The loop itself; `step` counts the updates that were started."""
  config, console, checkpointer = run.config, run.console, run.checkpointer
  if checkpointer.preempted_before(step):
    console.say(f'stopped at step {step}; run the same command to go on')
    return Outcome(step, signal.SIGTERM, {}, state)
  load = build.make_loader(config, run.parts.batch_keys, run.batch_sharding)
  log, waiting = _MetricLog(), InputWait()
  compiled, metrics, scores = None, None, {}

  def write_log(last: int) -> None:
    if scalars := log.flush(last):
      run.writers.write(last, 'train', scalars)
      console.progress(last, scalars, waiting.idle)

  with _StopSignals() as stop, jax.transfer_guard('disallow'):
    while step < config.num_steps:
      batch = load(waiting.get(lambda: next(run.iterator), metrics))
      if compiled is None:
        compiled = _compile(run, state, batch)
        console.start(step)
      state, metrics = compiled(state, batch)
      step += 1
      log.add(step, metrics)
      # The step just started is still running: log those before it.
      if (step - 1) % config.log_every == 0:
        write_log(step - 1)
      last, scores_now = step == config.num_steps, {}
      if run.validator and (last or step % config.eval.every == 0):
        write_log(step)
        scores_now = _validate(run, state, step, stop.stopped)
        scores = scores_now or scores
      several = jax.process_count() > 1
      stopping = checkpointer.reached_preemption(step) if several else stop.stopped()
      if last or stopping or step % config.checkpoint_every == 0:
        log.check()  # A state that is not finite is never saved.
        with jax.transfer_guard('allow'):
          checkpointer.save(step, state, run.iterator, scores_now)
      if stopping and not last:
        break
    write_log(step)
    with jax.transfer_guard('allow'):
      checkpointer.wait()
    jax.block_until_ready(state)
  interrupted = step < config.num_steps
  number = (stop.received or signal.SIGTERM) if interrupted else None
  console.say(
    f'stopped at step {step}, saved; run the same command to resume'
    if interrupted
    else f'done: {step} steps'
  )
  return Outcome(step, number, scores, state)
