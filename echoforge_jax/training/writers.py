"""Metric writers: JSON lines always, TensorBoard where it is installed."""

from collections.abc import Mapping
import importlib.util
import json

from etils import epath

from echoforge_jax.textio import write_text

METRICS_FILE = 'metrics.jsonl'


class JsonLinesWriter:
  """Adds one JSON object a line to `workdir/metrics.jsonl`."""

  def __init__(self, workdir: epath.PathLike, *, start_step: int = 0):
    """Opens the file; lines after `start_step` and a torn last line go."""
    self._path = epath.Path(workdir) / METRICS_FILE
    # Objects in a bucket cannot grow: there, each line writes the file anew.
    self._in_bucket = '://' in str(workdir)
    self._lines = []
    if self._path.exists():
      for line in self._path.read_text().splitlines():
        try:
          if json.loads(line)['step'] <= start_step:
            self._lines.append(line + '\n')
        except (ValueError, KeyError, TypeError):
          continue
    if self._in_bucket:
      return
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

    self._writer = metric_writers.SummaryWriter(
      str(epath.Path(workdir) / 'tensorboard')
    )

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Writes scalars under 'kind/name'."""
    self._writer.write_scalars(
      step, {f'{kind}/{name}': value for name, value in scalars.items()}
    )

  def close(self) -> None:
    """Flushes and closes the event file."""
    self._writer.flush()
    self._writer.close()


class MetricWriters:
  """All writers of a run behind one `write`; none but in process 0."""

  def __init__(
    self, workdir: epath.PathLike, *, start_step: int, is_primary: bool
  ):
    """Opens what is available; nothing unless this process writes."""
    self._writers = []
    if is_primary:
      self._writers.append(JsonLinesWriter(workdir, start_step=start_step))
      if all(
        importlib.util.find_spec(name) for name in ('tensorflow', 'tensorboard')
      ):
        self._writers.append(TensorBoardWriter(workdir))

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Writes scalars of one kind ('train' or 'eval') at one step."""
    for writer in self._writers:
      writer.write(step, kind, scalars)

  def close(self) -> None:
    """Closes all writers."""
    for writer in self._writers:
      writer.close()
