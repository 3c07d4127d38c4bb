"""Plans as text and as JSON."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from echoforge_jax import textio
from echoforge_jax.planning import compiled
from echoforge_jax.planning.plan import Plan

GIB = 2**30
# Printed under every plan with figures that no compiler gave.
METHOD = (
  'estimate: max(operations / peak, memory traffic / bandwidth), then '
  'collectives / links, at documented peaks; no program reaches them'
)
_HEAD = (
  'topology',
  'chips',
  'clips a step',
  'HBM used / usable GiB',
  'TFLOP',
  'traffic GB',
  'exchange MB',
  'step ms (est.)',
  'clips/s (est.)',
  'efficiency (est.)',
)


def text(plan: Plan) -> str:
  """A plan in lines.

  Args:
    plan: of `plan.make_plan`.

  Returns:
    Lines without a trailing newline.
  """
  place, clips = plan.place, plan.chips * plan.clips_per_chip
  lines = [
    f'{place.name}: {plan.chips} x {place.kind}, '
    f'{plan.clips_per_chip} clip{"s" * (plan.clips_per_chip > 1)} a '
    f'chip, {clips} a step'
  ]
  if plan.flags:
    lines.append(f'  the batch it is for: {" ".join(plan.flags)}')
  lines += _program_lines('training step', plan.train, place.hbm)
  if plan.train.fits:
    lines += _train_lines(plan)
  lines += _remedy_lines(plan)
  lines += _program_lines(
    'inference step (one frame of one clip, one chip)', plan.segment, place.hbm
  )
  found = plan.segment_estimate
  if found:
    lines.append(
      f'    estimate     {_milliseconds(found)}; '
      f'{1 / found.total:,.0f} frames/s a chip'
    )
  if found or plan.estimate:
    lines.append(f'  {METHOD}; peaks: {place.chip.source}')
  elif place.chip is None:
    lines.append(
      f'  no estimate: the peaks of {place.kind!r} are not known here'
    )
  return '\n'.join(lines)


def _program_lines(name: str, program: compiled.Program, hbm: int) -> list[str]:
  verdict = 'fits' if program.fits else 'does not fit'
  usable = f' of {hbm / GIB:.2f}' if hbm else ''
  if program.needed:
    verdict += f': {program.needed / GIB:.2f}{usable} GiB a chip'
  if program.fits and hbm:
    verdict += f', {(hbm - program.needed) / GIB:.2f} free'
  lines = [f'  {name} {verdict}; compiled in {program.seconds:.0f} s']
  if not program.fits:
    return lines + [f'    {program.message}']
  memory = program.memory
  lines.append(
    f'    GiB          arguments {memory.arguments / GIB:.3f}, outputs '
    f'{memory.outputs / GIB:.3f}, temporaries '
    f'{memory.temporaries / GIB:.3f}, code {memory.code / GIB:.3f}'
  )
  cycles = (
    f", {program.cycles / 1e6:.1f} M cycles by the compiler's estimate"
    if program.cycles
    else ''
  )
  lines.append(
    f'    work a chip  {program.flops / 1e12:.4g} TFLOP, '
    f'{program.num_bytes / 1e9:.4g} GB of memory traffic{cycles}'
  )
  return lines


def _train_lines(plan: Plan) -> list[str]:
  lines = []
  kinds = (
    ', '.join(
      f'{count} {kind} {size / 1e6:.1f} MB'
      for kind, (count, size) in plan.train.exchanges.items()
    )
    or 'nothing'
  )
  ratio = plan.train.exchanged / plan.gradient_bytes
  lines.append(
    f'    exchange     {kinds}; {ratio:.2f} x the gradients '
    f'({plan.gradient_bytes / 1e6:.1f} MB)'
  )
  found = plan.estimate
  if found:
    lines.append(
      f'    estimate     {_milliseconds(found)}; '
      f'{plan.clips_per_second:,.0f} clips/s, efficiency '
      f'{found.alone / found.total:.0%}'
    )
  if plan.largest:
    lines.append(
      f'    estimate     up to about {plan.largest} clips a chip would fit'
    )
  return lines


def _milliseconds(found: compiled.Estimate) -> str:
  return (
    f'{1e3 * found.total:.3g} ms = max(compute '
    f'{1e3 * found.compute:.3g}, memory {1e3 * found.memory:.3g}) + '
    f'exchange {1e3 * found.exchange:.3g}'
  )


def _remedy_lines(plan: Plan) -> list[str]:
  lines = []
  for remedy in plan.remedies:
    flags = ' '.join(remedy.flags)
    size = f' ({remedy.needed / GIB:.2f} GiB)' if remedy.needed else ''
    said = {
      True: f'this fits{size}:',
      False: f'not enough{size}:',
      None: 'cannot save enough, not tried:',
    }[remedy.fits]
    lines.append(f'    {said} {flags}')
  if plan.remedies and not plan.remedies[-1].fits:
    lines.append(
      '    nothing tried fits; a smaller config.data.image_size, '
      'fewer frames or a chip with more memory would'
    )
  return lines


def table(plans: Sequence[Plan]) -> str:
  """Training steps side by side, as a Markdown table.

  Args:
    plans: of one config.

  Returns:
    Lines without a trailing newline.
  """
  rows = [_HEAD, ('---',) * len(_HEAD)]
  for plan in plans:
    train, found = plan.train, plan.estimate
    size = f'{train.needed / GIB:.2f}' if train.needed else '?'
    if plan.place.hbm:
      size += f' / {plan.place.hbm / GIB:.2f}'
    row = [
      plan.place.name,
      str(plan.chips),
      str(plan.chips * plan.clips_per_chip),
      size if train.fits else f'{size}, does not fit',
    ]
    row += (
      [
        f'{train.flops / 1e12:.3g}',
        f'{train.num_bytes / 1e9:.3g}',
        f'{train.exchanged / 1e6:.1f}',
      ]
      if train.fits
      else ['-'] * 3
    )
    row += (
      [
        f'{1e3 * found.total:.3g}',
        f'{plan.clips_per_second:,.0f}',
        f'{found.alone / found.total:.0%}',
      ]
      if found
      else ['-'] * 3
    )
    rows.append(row)
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def to_json(plan: Plan) -> dict[str, Any]:
  """A plan as JSON; bytes, seconds and operations of one chip.

  Args:
    plan: of `plan.make_plan`.

  Returns:
    A tree of dicts, lists, numbers and strings; null where unknown.
  """
  place = plan.place
  return {
    'topology': place.name,
    'device_kind': place.kind,
    'chips': plan.chips,
    'usable_bytes': place.hbm or None,
    'peaks': place.chip
    and {
      name: value
      for name, value in dataclasses.asdict(place.chip).items()
      if name != 'options'
    },
    'clips_per_chip': plan.clips_per_chip,
    'flags': list(plan.flags),
    'state_bytes': plan.state_bytes,
    'gradient_bytes': plan.gradient_bytes,
    'train': _program_json(plan.train, plan.estimate)
    | {
      'clips_per_second': textio.to_json(plan.clips_per_second),
      'largest_clips_per_chip': plan.largest or None,
    },
    'segment': _program_json(plan.segment, plan.segment_estimate),
    'remedies': [dataclasses.asdict(one) for one in plan.remedies],
  }


def _program_json(
  program: compiled.Program, found: compiled.Estimate | None
) -> dict[str, Any]:
  result = dataclasses.asdict(program)
  result['seconds'] = round(program.seconds, 1)
  result['exchanges'] = {
    kind: {'count': count, 'bytes': size}
    for kind, (count, size) in program.exchanges.items()
  }
  result['estimate_seconds'] = found and {
    'compute': found.compute,
    'memory': found.memory,
    'exchange': found.exchange,
    'total': found.total,
    'efficiency': found.alone / found.total,
  }
  return result
