"""The model card of an exported model: what it is, scores, limits, receipt."""

import json
import pathlib

from echoforge_jax import textio

# Where a run lay and read from: of no use elsewhere.
_PRIVATE = ('data_dir', 'init_from')


def public_config(config) -> dict:
  """A run's config without the paths of the machine it ran on.

  Args:
    config: the resolved ConfigDict.

  Returns:
    Nested dict; of a path only its last part stays.
  """

  def kept(fields):
    return {
      key: kept(value)
      if isinstance(value, dict)
      else pathlib.PurePath(value).name
      if key in _PRIVATE
      else value
      for key, value in fields.items()
    }

  return kept(config.to_dict())


def text(
  manifest: dict, config: dict, scores: dict | None, file_name: str
) -> str:
  """The card.

  Args:
    manifest: of the export.
    config: of `public_config`.
    scores: content of metrics.json, or None.
    file_name: of the exported file.

  Returns:
    Markdown with a trailing newline.
  """
  model = manifest['model']
  parts = [
    f'# {model["name"]}, {model["which"]} after {model["step"]} steps\n\n'
    f'**{manifest["disclaimer"]}**',
    _what(manifest, file_name),
    _data(config, scores),
    _scores(scores),
    _limits(manifest),
    _parity(manifest['parity']),
    '## Receipt\n\n' + _block(model | {'exported_with_jax': manifest['jax']}),
    '## Config\n\n' + _block(config),
  ]
  return '\n\n'.join(parts) + '\n'


def _block(value: dict) -> str:
  return f'```json\n{json.dumps(value, indent=2, sort_keys=True)}\n```'


def _what(manifest: dict, file_name: str) -> str:
  size, model = manifest['image_size'], manifest['model']
  classes = ', '.join(
    f'{c["name"]} = {c["label"]}' for c in manifest['classes']
  )
  lines = [
    f'`{file_name}` holds four programs with all {model["parameters"]:,} '
    'parameters inside, for CPU, CUDA and TPU: '
    f'`clip_*` segments {manifest["frames"]} frames at once, `step_*` one '
    'frame after another with a memory. `manifest.json` lists every input '
    'and output.',
    f'Input: uint8 gray frames squeezed to {size}x{size}, about '
    f'{1000 * manifest["preprocess"]["interval_s"]:.0f} ms apart. Output: '
    f'logits, one channel a class ({classes}); probability above one half '
    'where a logit is above 0.',
  ]
  if manifest['delay']:
    lines.append(
      f'Its step answers {manifest["delay"]} frame late: feed the last frame '
      'once more at the end.'
    )
  lines.append(
    'To run it: `pip install jax numpy flatbuffers` and '
    '`docs/examples/run_exported.py`.'
  )
  return '## What it is\n\n' + '\n\n'.join(lines)


def _data(config: dict, scores: dict | None) -> str:
  data = config['data']
  lines = [
    f'Trained on the layout `{data["dataset"]}`, split scheme '
    f'`{data.get("split_scheme", "official")}`, supervision '
    f'`{data.get("supervision", "unknown")}`, labels of '
    f'{100 * data.get("label_fraction", 1.0):g} % of the training patients. '
    'The phantom writes the same layouts: the config does not tell whether '
    'these patients were real.'
  ]
  if scores and textio.is_synthetic(scores):
    lines.append('The evaluation below says that its patients are synthetic.')
  return '## Data\n\n' + ' '.join(lines)


def _scores(scores: dict | None) -> str:
  if not scores:
    return (
      '## Scores\n\nNone given: export with `--metrics=PATH` of an '
      'evaluation of this checkpoint.'
    )
  receipt = scores['receipt']
  lines = [
    f'Protocol `{scores["protocol"]}`, {receipt.get("split", "test")} split '
    f'of `{receipt.get("dataset")}`, {scores.get("n_patients")} patients, '
    f'{scores.get("n_frames")} frames; mean and 95 % interval over patients.',
    '',
    '| class | metric | mean | 95 % interval |',
    '|---|---|---|---|',
  ]
  for name, entries in scores['classes'].items():
    for metric, entry in entries.items():
      share = metric in ('dice', 'iou')
      scale, digits = (100, 2) if share else (1, 2)
      lines.append(
        f'| {name} | {textio.NAMES.get(metric, metric)} '
        f'({"%" if share else scores.get("unit", "")}) | '
        f'{textio.number(entry["mean"], digits, scale)} | '
        f'{textio.interval(entry["ci95"], digits, scale)} |'
      )
  ef = scores.get('ef') or {}
  if ef.get('n'):
    lines += [
      '',
      f'EF over {ef["n"]} patients: Pearson r '
      f'{textio.number(ef["pearson_r"], 3)}, bias '
      f'{textio.number(ef["bias"], 2)}, MAE '
      f'{textio.number(ef["mae"], 2)} percentage points.',
    ]
  if textio.is_synthetic(scores):
    lines += [
      '',
      f'**{textio.SYNTHETIC_NOTE[0].upper()}{textio.SYNTHETIC_NOTE[1:]}.**',
    ]
  return '## Scores\n\n' + '\n'.join(lines)


def _limits(manifest: dict) -> str:
  return (
    '## Limits\n\n'
    '- Apical views only, cropped to the sector; anything else gives masks '
    'too, and they mean nothing.\n'
    '- No quality flags, no ED and ES, no volumes: those are in '
    '`echoforge segment`, as is finding the sector.\n'
    f'- Frames much further apart or closer than '
    f'{1000 * manifest["preprocess"]["interval_s"]:.0f} ms were not seen in '
    'training.\n'
    '- `float32` programs multiply with all bits on every platform; '
    '`bfloat16` is the fast choice on accelerators.\n'
    '- JAX promises to read a program for six months; export again with a '
    'newer version after that.'
  )


def _parity(parity: dict | None) -> str:
  if not parity:
    return '## Against the original\n\nNot measured.'
  lines = [
    f'Largest difference from the unexported model on {parity["clip"]}, on '
    f'{parity["device"]}.',
    '',
    '| program | logits (largest logit) | probabilities | pixels that '
    'change sides |',
    '|---|---|---|---|',
  ]
  lines += [
    f'| `{name}` | {d["logits"]:.1e} ({d["logits_magnitude"]:.1f}) | '
    f'{d["probabilities"]:.1e} | {100 * d["pixels"]:.3f} % |'
    for name, d in parity['largest_difference'].items()
  ]
  return '## Against the original\n\n' + '\n'.join(lines)
