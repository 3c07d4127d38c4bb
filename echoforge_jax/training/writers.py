"""What a run writes and prints: JSON lines, TensorBoard, the console."""

from collections.abc import Mapping
import contextlib
import importlib.util
import json
import time

from etils import epath
from ml_collections import ConfigDict

from echoforge_jax.textio import write_text

METRICS_FILE = 'metrics.jsonl'
# Share of the time without a batch from which on the console says so.
MUCH_WAITING = 0.05
_SHOWN = {
  'loss': 'loss',
  'dice': 'train_dice',
  'lambda': 'unsupervised_weight',
  'tau': 'threshold',
  'confident': 'confident_share',
}


class JsonLinesWriter:
  """Adds one JSON object a line to `workdir/metrics.jsonl`."""

  def __init__(self, workdir: epath.PathLike, *, start_step: int = 0):
    """Opens the file; lines after `start_step` and a torn last line go."""
    self._path = epath.Path(workdir) / METRICS_FILE
    # Objects in a bucket cannot grow: there, each line writes the file anew.
    self._in_bucket = '://' in str(workdir)
    self._lines = []
    for line in self._path.read_text().splitlines() if self._path.exists() else ():
      with contextlib.suppress(ValueError, KeyError, TypeError):
        if json.loads(line)['step'] <= start_step:
          self._lines.append(line + '\n')
    if not self._in_bucket:
      write_text(self._path, ''.join(self._lines))
      self._file = self._path.open('a')

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Writes one line: {"step", "kind", name: value, ...}."""
    line = json.dumps({'step': step, 'kind': kind} | scalars) + '\n'
    if self._in_bucket:
      self._lines.append(line)
      self._path.write_text(''.join(self._lines))
    else:
      self._file.write(line)
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    if not self._in_bucket:
      self._file.close()


class TensorBoardWriter:
  """Writes the same scalars as TensorBoard events, through clu."""

  def __init__(self, workdir: epath.PathLike):
    """Opens `workdir/tensorboard`; needs TensorFlow and TensorBoard."""
    from clu import metric_writers  # Needs TensorFlow, which is optional.

    self._writer = metric_writers.SummaryWriter(str(epath.Path(workdir) / 'tensorboard'))

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Writes scalars under 'kind/name'."""
    self._writer.write_scalars(step, {f'{kind}/{name}': value for name, value in scalars.items()})

  def close(self) -> None:
    """Flushes and closes the event file."""
    self._writer.flush()
    self._writer.close()


class MetricWriters:
  """All writers of a run behind one `write`; none but in process 0."""

  def __init__(self, workdir: epath.PathLike, *, start_step: int, is_primary: bool):
    """Opens what is available; nothing unless this process writes."""
    self._writers = []
    if is_primary:
      self._writers.append(JsonLinesWriter(workdir, start_step=start_step))
      if all(importlib.util.find_spec(name) for name in ('tensorflow', 'tensorboard')):
        self._writers.append(TensorBoardWriter(workdir))

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Writes scalars of one kind ('train' or 'eval') at one step."""
    for writer in self._writers:
      writer.write(step, kind, scalars)

  def close(self) -> None:
    """Closes all writers."""
    for writer in self._writers:
      writer.close()


class Console:
  """Prints progress in process 0."""

  def __init__(self, config: ConfigDict, *, enabled: bool):
    self._enabled = enabled
    self._num_steps = config.num_steps
    self._clips = config.batch_size + config.unlabeled_batch_size
    self._mark: tuple[int, float] | None = None

  def say(self, text: str) -> None:
    """Prints a line now."""
    if self._enabled:
      print(text, flush=True)

  def length(self, num_clips: int | None) -> None:
    """Prints how long the run is."""
    text = f'length: {self._num_steps} steps'
    if num_clips:
      epochs = self._num_steps * self._clips / num_clips
      text += f', {epochs:.4g} epochs of {num_clips} clips'
    self.say(text)

  def start(self, step: int) -> None:
    """Starts the clock at `step` updates."""
    self._mark = (step, time.perf_counter())

  def progress(self, step: int, scalars: Mapping[str, float], idle: float) -> None:
    """Prints one line of progress; `idle` seconds went by without a batch."""
    since, start = self._mark
    elapsed = max(time.perf_counter() - start, 1e-9)
    rate = (step - since) / elapsed
    left = (self._num_steps - step) / max(rate, 1e-9)
    parts = [f'step {step}/{self._num_steps} ({step / self._num_steps:.0%})']
    parts += [f'{label} {scalars[name]:.3f}' for label, name in _SHOWN.items() if name in scalars]
    parts.append(f'{rate * self._clips:.1f} clips/s')
    if idle >= MUCH_WAITING * elapsed:
      parts.append(f'{idle / elapsed:.0%} of the time waiting for data')
    parts.append(f'ETA {_duration(left)}')
    self.say('  '.join(parts))


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
