"""A run -> one file: programs with their parameters, manifest, model card.

The file is an uncompressed zip of the programs of `programs.py`, `manifest.json`
and `README.md`, the model card. Equal checkpoints give equal bytes.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
import zipfile

import jax
import numpy as np

from echoforge_jax.clip import LABELS
from echoforge_jax.config import config_digest
from echoforge_jax.data import pipeline
from echoforge_jax.errors import InputError
from echoforge_jax.inference import confidence, model_card, programs
from echoforge_jax.inference.receipt import DISCLAIMER
from echoforge_jax.inference.segmenter import Segmenter, load
from echoforge_jax.models import network_file
from echoforge_jax.models.memory import TRAINED_INTERVAL_S
from echoforge_jax.textio import replacing, to_json, write_text
from echoforge_jax.training import build, checkpoint
from echoforge_jax.training.workdir import read_config

FORMAT, FORMAT_VERSION = 'echoforge-export', 1
# Phantom clips that a confidence is fitted on, half of them, and judged on.
_CALIBRATION_CLIPS = 400
# Scores that a network's file keeps.
_KEPT = ('protocol', 'n_patients', 'n_frames', 'classes', 'ef', 'temporal')


def export_run(
  checkpoint_dir,
  out,
  *,
  which: str = 'teacher',
  step: str | int = 'latest',
  frames: int = 10,
  metrics=None,
  check: bool = True,
  report: Callable[[str], None] = print,
) -> dict:
  """Exports one checkpoint of a run, and its card beside it; returns the manifest.

  Args:
    checkpoint_dir, which, step: as `segmenter.load` takes them.
    out: file to write; replaced. `out` + '.md' gets the model card.
    frames: T of the clip programs.
    metrics: metrics.json of an evaluation of this very checkpoint, or None.
    check: run each program and record how far it is from the segmenter.
  """
  out = _checked_out(out)
  if frames < 1:
    raise InputError(f'--frames={frames}: wanted at least 1')
  segmenter = load(checkpoint_dir, which, step)
  config = read_config(checkpoint_dir)
  scores = _read_metrics(metrics, config, segmenter.receipt)
  clip = programs.frames_of((segmenter.image_size,) * 2)
  clip = clip[np.arange(frames) % len(clip)]
  made, parity = [], {}
  for program in programs.make_programs(segmenter, frames):
    made.append(program)
    line = f'{program.name}: {len(program.serialized) / 1e6:.1f} MB'
    if check:
      parity[program.name] = programs.parity(segmenter, program, clip)
      most = parity[program.name]['probabilities']
      line += f', probabilities within {most:.1e} of the segmenter'
    report(line)
  manifest = to_json(_manifest(segmenter, config, made, frames, parity))
  card = model_card.text(manifest, model_card.public_config(config), scores, out.name)
  _write(out, made, manifest, card)
  report(f'{out} ({out.stat().st_size / 1e6:.1f} MB) and {out.name}.md')
  return manifest


def export_network(
  checkpoint_dir,
  out,
  *,
  which: str = 'teacher',
  step: str | int = 'latest',
  metrics=None,
  note: str = '',
  calibrate: bool = False,
  data: Mapping[str, str] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Writes config and parameters into one .safetensors file, see `models.network_file`.

  `note` is what `segment` says about the model beside what it was trained on. `calibrate` fits the
  confidence (`confidence.fit`) on the run's validation clips, or on prepared ones that `data`
  names by data_dir, dataset and split. The other arguments are those of `export_run`.
  """
  out = _checked_out(out)
  segmenter = load(checkpoint_dir, which, step)  # It fits the model as it is now.
  step = segmenter.receipt['step']
  config, variables, _ = checkpoint.restore_for_inference(checkpoint_dir, which, step)
  kept = ('versions', 'git_revision', 'step_choice', 'step_score', 'trained_on', 'note')
  facts = {name: segmenter.receipt[name] for name in kept if name in segmenter.receipt}
  facts |= {'note': note} if note else {}
  scores = _read_metrics(metrics, config, segmenter.receipt)
  if scores:
    facts['metrics'] = {name: scores.get(name) for name in _KEPT}
  fitted = dict(segmenter.scaling.facts)
  if calibrate:
    fitted = _fit_confidence(segmenter, config, **data or {})
    numbers = {k: v for k, v in fitted.items() if k != 'risk_coverage'}
    for name in ('aurc', 'aurc_random', 'aurc_oracle'):
      numbers[name] = fitted['risk_coverage'][name]
    report(f'confidence: {json.dumps(to_json(numbers))}')
  if fitted:
    facts['confidence'] = fitted
  public = model_card.public_config(config)
  size = network_file.write(out, public, variables, step, which, **to_json(facts))
  report(f'{out} ({size / 1e6:.1f} MB)')


def _fit_confidence(segmenter: Segmenter, config, split='validation', **where) -> dict:
  """Calibrates on validation clips, segmented frame by frame as users' are."""
  spec = build.data_spec(config)
  stream = dataclasses.replace(spec.stream, held_out=_CALIBRATION_CLIPS)
  spec = dataclasses.replace(spec, stream=stream, **where)
  pairs = (
    (programs.reference_logits(segmenter, np.asarray(clip['video'])[..., 0])[..., 0], clip['masks'])
    for clip in pipeline.eval_clips(spec, split)
  )
  return confidence.fit(pairs) | {'data': spec.dataset, 'split': split}


def _checked_out(out) -> pathlib.Path:
  out = pathlib.Path(out)
  if out.is_dir() or not out.name:
    raise InputError(
      f'--out={out}: this is a folder; wanted a file, such as {out / "model.echoforge"}'
    )
  if not out.resolve().parent.is_dir():
    raise InputError(f'--out={out}: no folder {out.parent}; make it first')
  if not os.access(out.resolve().parent, os.W_OK):
    raise InputError(f'--out={out}: the folder cannot be written to')
  return out


def _read_metrics(path, config, receipt: dict) -> dict | None:
  """Returns metrics of an evaluation, if it was of this very checkpoint."""
  if path is None:
    return None
  try:
    scores = json.loads(pathlib.Path(path).read_text())
    found = dict(scores['receipt'])
    scores['classes'], scores['protocol']  # noqa: B018
  except OSError as error:
    raise InputError(
      f'--metrics={path}: {error.strerror or error}; wanted the metrics.json of an evaluation'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'--metrics={path}: not the metrics.json of an evaluation ({type(error).__name__}: {error})'
    ) from error
  wanted = {
    'config_digest': config_digest(config),
    'which': receipt['which'],
    'checkpoint_step': receipt['step'],
    'training_seed': receipt['training_seed'],
  }
  for name, value in wanted.items():
    if found.get(name) != value:
      raise InputError(
        f'--metrics={path}: an evaluation of another model: {name} is '
        f'{found.get(name)!r} there and {value!r} here; evaluate this one'
      )
  return scores


def _manifest(segmenter: Segmenter, config, made, frames: int, parity: dict) -> dict:
  size = segmenter.image_size
  memory = programs.memory_fields(segmenter.model, size)
  assert not any(value.any() for _, value in memory), 'memory begins as zeros'
  return {
    'format': FORMAT,
    'format_version': FORMAT_VERSION,
    'programs': {program.name: program.entry for program in made},
    'platforms': list(programs.PLATFORMS),
    'image_size': size,
    'frames': frames,
    'classes': [{'name': name, 'label': LABELS[name]} for name in segmenter.classes],
    'delay': segmenter.model.delay,
    'memory': [
      {'name': name, 'shape': list(value.shape), 'dtype': value.dtype.name, 'initial': 'zeros'}
      for name, value in memory
    ],
    'preprocess': {
      'gray': 'uint8, one channel, 0 black',
      'crop': 'to the ultrasound sector: apex at the top center, sides touching; black outside',
      'squeeze': f'each frame to {size}x{size}, whatever its proportions: area average where an '
      'axis shrinks, linear where it grows, rounded to uint8',
      'scale': 'none: the program divides by 255 itself',
      'interval_s': TRAINED_INTERVAL_S,
    },
    'postprocess': {
      'logits': 'interpolate bilinearly to the native size first',
      'mask': 'label of the largest logit where it is above 0, else 0',
    },
    'parity': {
      'clip': f'{frames} frames of speckle in a sector',
      'device': str(segmenter.device.platform),
      'largest_difference': parity,
    }
    if parity
    else None,
    'model': segmenter.receipt | {'config_digest': config_digest(config)},
    'jax': jax.__version__,
    'disclaimer': DISCLAIMER,
  }


def _write(out: pathlib.Path, made, manifest: dict, card: str) -> None:
  text = json.dumps(manifest, indent=2, allow_nan=False) + '\n'
  entries = {f'{program.name}.jaxexp': program.serialized for program in made}
  entries |= {'manifest.json': text.encode(), 'README.md': card.encode()}
  try:
    with replacing(out) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
      for name, content in entries.items():
        archive.writestr(zipfile.ZipInfo(name), content)  # Without a date.
    write_text(out.with_name(out.name + '.md'), card)
  except OSError as error:
    raise InputError(f'--out={out}: cannot be written ({error.strerror or error})') from error
