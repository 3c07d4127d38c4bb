"""The model card of an exported model: what it is, scores, limits, receipt."""

import json
import pathlib

import jinja2

from echoforge_jax import textio

# Where a run lay and read from: of no use elsewhere.
_PRIVATE = ('data_dir', 'init_from')


def public_config(config) -> dict:
  """Returns a run's config as a dict; of paths only the last part stays."""

  def kept(key, value):
    if isinstance(value, dict):
      return {name: kept(name, item) for name, item in value.items()}
    return pathlib.PurePath(value).name if key in _PRIVATE else value

  return kept('', config.to_dict())


def text(manifest: dict, config: dict, scores: dict | None, file_name: str) -> str:
  """Returns the card, Markdown; `config` is of `public_config`, `scores` metrics.json or None."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('echoforge_jax.inference'),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters |= {
    'json': lambda value: json.dumps(value, indent=2, sort_keys=True),
    'number': textio.number,
    'interval': textio.interval,
  }
  return environment.get_template('model_card.md.jinja').render(
    manifest=manifest,
    model=manifest['model'],
    interval_ms=round(1000 * manifest['preprocess']['interval_s']),
    data=config['data'],
    config=config,
    scores=scores,
    synthetic=scores is not None and textio.is_synthetic(scores),
    names=textio.NAMES,
    synthetic_note=textio.SYNTHETIC_NOTE,
    file_name=file_name,
  )
