"""Phantom patients to a trained, scored model and a real clip, in one call.

Every stage calls the library function behind the verb of its name. Stages that are complete are
skipped and an interrupted training resumes, so that the same call continues where it stopped.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import pathlib
import time

from echoforge_jax import textio
from echoforge_jax.errors import InputError

NUM_PATIENTS = 100
# Share of the patients that is tested on: the demo's intervals need more than CAMUS's tenth.
TEST_SHARE = 0.25
IMAGE_SIZE = 128
# What the config asks for; set before the phantom starts JAX.
CPU_DEVICES = 2
PROTOCOLS = ('camus_full', 'camus_semi')
CONFIG = 'demo'
COMPARISON = 'comparison.png'  # In segment/: the clip with the demo's model and the shipped one.


@dataclasses.dataclass(frozen=True)
class Demo:
  """What a demo left behind."""

  out_dir: pathlib.Path
  reports: dict[str, pathlib.Path]  # Page by protocol.
  overlay: pathlib.Path | None  # The real clip, segmented by the demo's own model.
  results: dict  # Its result.json.
  seconds: dict[str, float]  # Duration of every stage.
  interrupted: bool = False  # A signal stopped training; nothing follows it.


def run_demo(
  out_dir='demo',
  *,
  num_patients: int = NUM_PATIENTS,
  seed: int = 0,
  num_steps: int | None = None,
  image_size: int = IMAGE_SIZE,
  config_path=CONFIG,
  say: Callable[[str], None] = print,
  num_workers: int = 0,
  progress: bool = True,
) -> Demo:
  """Runs the demo, or what is left of it.

  Args:
    out_dir: gets raw/, data/, run/, report_PROTOCOL/ and segment/; not a demo with other settings.
    num_patients: phantom patients, 10 or more for splits worth the name.
    num_steps: training steps; None takes the config's.
    image_size: side of the prepared frames, a multiple of 32.
    config_path: the training config: a file or a name.
    say: gets every line of the report.
    num_workers: processes that make phantoms beside this one; they import the calling script, which
      needs its `if __name__ == '__main__'`.
  """

  from echoforge_jax.phantom import camus_writer

  out_dir = pathlib.Path(out_dir)
  settings = {'num_patients': num_patients, 'seed': seed, 'num_steps': num_steps}
  settings |= {'image_size': image_size, 'config': pathlib.Path(config_path).name}
  if num_patients < 3:
    raise InputError(
      f'--patients={num_patients}: wanted at least 3, one for each of training, validation and test'
    )
  _claim(out_dir, settings)
  clock = _Clock(say)
  data_dir, run_dir = out_dir / 'data', out_dir / 'run'
  text = f'{num_patients} synthetic patients with exact truth, as raw CAMUS files'
  with clock.stage('phantom', text):
    camus_writer.write_camus(
      out_dir / 'raw',
      num_patients=num_patients,
      seed=seed,
      num_test=max(1, int(TEST_SHARE * num_patients)),
      num_workers=num_workers,
      progress=progress,
    )
  _prepare(clock, out_dir / 'raw', data_dir, image_size, progress)
  with clock.stage(
    'train', 'the shipped model learns on, semi-supervised: only ED and ES are labeled'
  ):
    outcome = _train(config_path, data_dir, run_dir, seed, num_steps, image_size)
  if outcome.signal:
    return Demo(out_dir, {}, None, {}, clock.seconds, interrupted=True)
  reports = _evaluate(clock, out_dir, run_dir)
  overlay, result = _segment(clock, out_dir, run_dir)
  _close(clock, reports, overlay)
  return Demo(out_dir, reports, overlay, result, clock.seconds)


def _prepare(clock, raw_dir, data_dir, image_size, progress) -> None:
  """Verifies and prepares the raw files."""
  from echoforge_jax.data import verify
  from echoforge_jax.data.prepare import prepare

  with clock.stage('verify', "every raw file, as a provider's would be"):
    findings = verify.verify_camus(raw_dir, progress=progress)
    errors = [finding for finding in findings if finding.severity == 'error']
    codes = collections.Counter(finding.code for finding in findings)
    counts = ''.join(f'; {count} {code}' for code, count in codes.items())
    clock.say(f'{len(errors)} errors, {len(findings) - len(errors)} warnings{counts}')
    if errors:
      first = errors[0]
      raise InputError(
        f'{first.file}: found {first.found}; wanted {first.wanted}; {first.remedy} (the first of '
        f'{len(errors)} errors; `echoforge verify --dataset=camus --raw={raw_dir}` lists all)'
      )
  with clock.stage('prepare', f'squeezed to {image_size}x{image_size}, ArrayRecord'):
    prepared = prepare('camus', raw_dir, data_dir, image_size, progress=progress)
    for split, (patients, clips, frames) in prepared.counts.items():
      clock.say(f'{split:<12}{patients:>4} patients {clips:>4} clips {frames:>6} frames')


def _train(config_path, data_dir, run_dir, seed, num_steps, image_size):
  """Trains the config, or resumes; a finished run returns at once."""
  from echoforge_jax import config
  from echoforge_jax.training import loop

  fields = {'data.data_dir': data_dir, 'data.image_size': image_size, 'seed': seed}
  if num_steps is not None:
    every = max(1, min(200, num_steps // 2))
    fields |= {'num_steps': num_steps, 'eval.every': every, 'checkpoint_every': every}
    fields['optimizer.warmup_steps'] = min(20, num_steps // 10)
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  return loop.train(config.parse_config([f'--config={config_path}', *flags]), run_dir)


def _evaluate(clock, out_dir, run_dir) -> dict[str, pathlib.Path]:
  """Scores the test split under each protocol; prints the tables."""
  from echoforge_jax.evaluation import evaluate
  from echoforge_jax.evaluation.report.summary import summary_text

  reports = {}
  for protocol in PROTOCOLS:
    folder = out_dir / f'report_{protocol}'
    summary = folder / 'summary.txt'  # Written last: the stage is complete.
    with clock.stage(f'evaluate {protocol}', 'test patients, never trained on'):
      if not summary.exists():
        done = evaluate.evaluate(run_dir, 'test', protocol, folder)
        summary.write_text(summary_text(done.result) + '\n')
      clock.say(summary.read_text().rstrip())
    reports[protocol] = folder / 'report' / 'index.html'
  return reports


def _segment(clock, out_dir, run_dir) -> tuple[pathlib.Path, dict]:
  """Segments the real clip that pydicom carries, with the demo's model and the shipped one."""
  from pydicom import examples

  from echoforge_jax.inference import batch, outputs

  path = pathlib.Path(examples.get_path('ybr_color'))
  folders = {name: out_dir / 'segment' / name for name in ('demo', 'default')}
  written = out_dir / 'segment' / COMPARISON  # Written last: the stage is complete.
  text = f"a real apical four-chamber clip (pydicom's {path.name}), unlike anything trained on"
  with clock.stage('segment', text):
    if not written.exists():
      measured = {}
      for name, model in (('demo', run_dir), ('default', 'default')):
        measured[name] = batch.segment_file(path, model, out_dir=folders[name]).measurement
      outputs.write_comparison(written, measured)
    results = {
      name: json.loads((folder / 'result.json').read_text()) for name, folder in folders.items()
    }
    for name, result in results.items():
      clock.say(batch.summary(f"{name}'s model", result))
  return folders['demo'] / 'overlay.mp4', results['demo']


def _close(clock, reports, overlay) -> None:
  from echoforge_jax.inference.receipt import DISCLAIMER

  clock.say(f'\n== done in {_duration(sum(clock.seconds.values()))} ==')
  for protocol, page in reports.items():
    clock.say(f'{"report " + protocol:<18} {page}')
  for name in ('overlay.mp4', 'overlay.png', 'result.json'):
    clock.say(f'{name:<18} {overlay.with_name(name)}')
  clock.say(f'{"both models":<18} {overlay.parents[1] / COMPARISON}')
  clock.say(f'\n{DISCLAIMER} Neither model has seen a patient.')


def _claim(out_dir: pathlib.Path, settings: dict) -> None:
  """Writes the settings into a new folder, or compares them."""
  path = out_dir / 'demo.json'
  try:
    if path.exists():
      found = json.loads(path.read_text())
      differing = [
        f'{name} {found.get(name)!r} there, {value!r} now'
        for name, value in settings.items()
        if found.get(name) != value
      ]
      if differing:
        raise InputError(
          f'{path}: an earlier demo with other settings is here ({"; ".join(differing)}); give the '
          'same ones to continue it, or another --out'
        )
      return
    if out_dir.exists() and any(out_dir.iterdir()):
      raise InputError(
        f'{out_dir}: is not empty and holds no demo; wanted a new folder: give another --out'
      )
    out_dir.mkdir(parents=True, exist_ok=True)
    textio.write_json(path, settings)
  except (OSError, json.JSONDecodeError) as error:
    raise InputError(f'{path}: cannot be used ({error}); give another --out') from error


class _Clock:
  """Section headers, and how long each section took."""

  def __init__(self, say: Callable[[str], None]):
    self.say = say
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def stage(self, name: str, text: str) -> Iterator[None]:
    start = time.perf_counter()
    self.say(f'\n== {name}: {text} ==')
    yield
    self.seconds[name] = time.perf_counter() - start
    self.say(f'-- {name}: {_duration(self.seconds[name])}')


def _duration(seconds: float) -> str:
  minutes, rest = divmod(seconds, 60)
  return f'{int(minutes)} min {rest:.0f} s' if minutes else f'{rest:.1f} s'
