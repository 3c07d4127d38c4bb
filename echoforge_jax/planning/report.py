"""Plans as text and as JSON."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from echoforge_jax import textio
from echoforge_jax.planning.compiled import CompiledStep, Estimate
from echoforge_jax.planning.plan import Plan

GIB = 2**30
# Printed under every plan with figures that no compiler gave.
METHOD = (
  'estimate: max(operations / peak, memory traffic / bandwidth), then '
  'collectives / links, at documented peaks; no program reaches them'
)
_HEAD = (
  'topology|chips|clips a step|HBM used / usable GiB|TFLOP|traffic GB|exchange MB|'
  'step ms (est.)|clips/s (est.)|efficiency (est.)'
).split('|')


def text(plan: Plan) -> str:
  """Returns a plan in lines, without a trailing newline."""
  place, clips = plan.place, plan.chips * plan.clips_per_chip
  each = f'{plan.clips_per_chip} clip{"s" * (plan.clips_per_chip > 1)}'
  lines = [f'{place.name}: {plan.chips} x {place.kind}, {each} a chip, {clips} a step']
  if plan.flags:
    lines.append(f'  the batch it is for: {" ".join(plan.flags)}')
  lines += _step_lines('training step', plan.train, place.hbm)
  if plan.train.fits:
    lines += _train_lines(plan)
  lines += _remedy_lines(plan)
  lines += _step_lines('inference step (one frame of one clip, one chip)', plan.segment, place.hbm)
  if found := plan.segment_estimate:
    lines.append(f'    estimate     {_milliseconds(found)}; {1 / found.total:,.0f} frames/s a chip')
  if found or plan.estimate:
    lines.append(f'  {METHOD}; peaks: {place.chip.source}')
  elif place.chip is None:
    lines.append(f'  no estimate: the peaks of {place.kind!r} are not known here')
  return '\n'.join(lines)


def _step_lines(name: str, step: CompiledStep, hbm: int) -> list[str]:
  verdict = 'fits' if step.fits else 'does not fit'
  if step.needed:
    usable = f' of {hbm / GIB:.2f}' if hbm else ''
    verdict += f': {step.needed / GIB:.2f}{usable} GiB a chip'
  if step.fits and hbm:
    verdict += f', {(hbm - step.needed) / GIB:.2f} free'
  head = f'  {name} {verdict}; compiled in {step.seconds:.0f} s'
  if not step.fits:
    return [head, f'    {step.message}']
  parts = dataclasses.asdict(step.memory)
  sizes = ', '.join(f'{part} {size / GIB:.3f}' for part, size in parts.items())
  work = f'{step.flops / 1e12:.4g} TFLOP, {step.num_bytes / 1e9:.4g} GB of memory traffic'
  if step.cycles:
    work += f", {step.cycles / 1e6:.1f} M cycles by the compiler's estimate"
  return [head, f'    GiB          {sizes}', f'    work a chip  {work}']


def _train_lines(plan: Plan) -> list[str]:
  kinds = ', '.join(
    f'{count} {kind} {size / 1e6:.1f} MB' for kind, (count, size) in plan.train.exchanges.items()
  )
  ratio = f'{plan.train.exchanged / plan.gradient_bytes:.2f} x the gradients'
  size = f'{plan.gradient_bytes / 1e6:.1f} MB'
  lines = [f'    exchange     {kinds or "nothing"}; {ratio} ({size})']
  if found := plan.estimate:
    rate = f'{plan.clips_per_second:,.0f} clips/s, efficiency {found.alone / found.total:.0%}'
    lines.append(f'    estimate     {_milliseconds(found)}; {rate}')
  if plan.largest:
    lines.append(f'    estimate     up to about {plan.largest} clips a chip would fit')
  return lines


def _milliseconds(found: Estimate) -> str:
  return (
    f'{1e3 * found.total:.3g} ms = max(compute {1e3 * found.compute:.3g}, '
    f'memory {1e3 * found.memory:.3g}) + exchange {1e3 * found.exchange:.3g}'
  )


def _remedy_lines(plan: Plan) -> list[str]:
  lines = []
  for remedy in plan.remedies:
    size = f' ({remedy.needed / GIB:.2f} GiB)' if remedy.needed else ''
    said = {
      True: f'this fits{size}:',
      False: f'not enough{size}:',
      None: 'cannot save enough, not tried:',
    }[remedy.fits]
    lines.append(f'    {said} {" ".join(remedy.flags)}')
  if plan.remedies and not plan.remedies[-1].fits:
    lines.append(
      '    nothing tried fits; a smaller config.data.image_size, '
      'fewer frames or a chip with more memory would'
    )
  return lines


def table(plans: Sequence[Plan]) -> str:
  """Returns the training steps of one config as a Markdown table."""
  rows = [_HEAD, ['---'] * len(_HEAD)]
  for plan in plans:
    train, found = plan.train, plan.estimate
    size = f'{train.needed / GIB:.2f}' if train.needed else '?'
    if plan.place.hbm:
      size += f' / {plan.place.hbm / GIB:.2f}'
    work, time = ['-'] * 3, ['-'] * 3
    if train.fits:
      work = [
        f'{train.flops / 1e12:.3g}',
        f'{train.num_bytes / 1e9:.3g}',
        f'{train.exchanged / 1e6:.1f}',
      ]
    if found:
      time = [
        f'{1e3 * found.total:.3g}',
        f'{plan.clips_per_second:,.0f}',
        f'{found.alone / found.total:.0%}',
      ]
    size += '' if train.fits else ', does not fit'
    clips = plan.chips * plan.clips_per_chip
    rows.append((plan.place.name, str(plan.chips), str(clips), size, *work, *time))
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def to_json(plan: Plan) -> dict[str, Any]:
  """Returns a plan as JSON: bytes, seconds and operations of one chip; null where not known."""
  place = plan.place
  peaks = dataclasses.asdict(place.chip) if place.chip else None
  if peaks:
    del peaks['options']
  return textio.to_json(
    {
      'topology': place.name,
      'device_kind': place.kind,
      'chips': plan.chips,
      'usable_bytes': place.hbm or None,
      'peaks': peaks,
      'clips_per_chip': plan.clips_per_chip,
      'flags': plan.flags,
      'state_bytes': plan.state_bytes,
      'gradient_bytes': plan.gradient_bytes,
      'train': _step_json(plan.train, plan.estimate)
      | {'clips_per_second': plan.clips_per_second, 'largest_clips_per_chip': plan.largest or None},
      'segment': _step_json(plan.segment, plan.segment_estimate),
      'remedies': [one._asdict() for one in plan.remedies],
    }
  )


def _step_json(step: CompiledStep, found: Estimate | None) -> dict[str, Any]:
  return dataclasses.asdict(step) | {
    'seconds': round(step.seconds, 1),
    'exchanges': {
      kind: {'count': count, 'bytes': size} for kind, (count, size) in step.exchanges.items()
    },
    'estimate_seconds': found
    and dataclasses.asdict(found) | {'total': found.total, 'efficiency': found.alone / found.total},
  }
