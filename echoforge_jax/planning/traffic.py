"""Bytes between a TPU's chip and its memory, read from a compiled program.

XLA's own count, 'bytes accessed', includes what stays on the chip. A TPU's compiled text says
where each array lies: `S(1)` and above are memories on the chip, no mark is HBM.
"""

from collections.abc import Iterator
import re

from echoforge_jax.planning.collectives import num_bytes

# "%x = f32[8,4]{1,0:T(8,128)S(1)} fusion(%y, %z), kind=..., calls=%f"
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>.*?) (?P<kind>[a-z][\w-]*)\((?P<rest>.*)$'
)
_COMPUTATION = re.compile(r'^(?P<entry>ENTRY )?%(?P<name>\S+) .*\{$')
_ARRAY = re.compile(r'\b(?P<dtype>[a-z]+\d*\w*)\[(?P<shape>[\d,]*)\](?P<layout>\{[^}]*\})?')
_SPACE = re.compile(r'S\([1-9]')
_NAMES = re.compile(r'%([\w.-]+)')
# What a program runs besides its entry; the inside of a fusion stays on chip.
_CALLED = re.compile(
  r'(?:branch_computations=\{|(?:body|condition|to_apply)=)((?:%[\w.-]+(?:, )?)+)'
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# These name or wait for arrays but move none.
_STILL = set(
  'parameter constant tuple get-tuple-element bitcast conditional while call '
  'copy-done slice-done async-done partition-id after-all all-reduce-done '
  'all-gather-done'.split()
)
_PLACES = ('"AllocateBuffer"', '"ConcatBitcast"')


def hbm_bytes(text: str) -> int:
  """Adds up the bytes that a TPU's `compiled.as_text()` reads from and writes to HBM, per chip.

  Both branches and one turn of each loop count; a fusion that reads part of an operand counts
  as reading all of it.
  """
  return sum(_moved(*found) for found in _run(text))


def cycles(text: str) -> int:
  """Adds up the compiler's estimates of cycles, without waits for memory or other chips."""
  return sum(int(found[1]) for _, match in _run(text) if (found := _CYCLES.search(match['rest'])))


def _run(text: str) -> Iterator[tuple[dict[str, str], re.Match]]:
  """Yields the types in its computation and the match of each instruction."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    if line and not line[0].isspace():
      opened = _COMPUTATION.match(line)
      current = computations.setdefault(opened['name'], []) if opened else None
      if opened and opened['entry']:
        entry = opened['name']
    elif current is not None and (match := _INSTRUCTION.match(line)):
      current.append(match)
  waiting, seen = [entry], set()
  while waiting:
    name = waiting.pop()
    if name in seen or name not in computations:
      continue
    seen.add(name)
    matches = computations[name]
    types = {match['name']: match['type'] for match in matches}
    for match in matches:
      if match['kind'] in ('conditional', 'while', 'call'):
        for called in _CALLED.finditer(match['rest']):
          waiting += _NAMES.findall(called[1])
      yield types, match


def _moved(types: dict[str, str], match: re.Match) -> int:
  kind, rest = match['kind'], match['rest']
  if kind in _STILL or any(place in rest for place in _PLACES):
    return 0
  result = list(_arrays(match['type']))
  if kind == 'copy-start':  # (to, from, flag)
    return sum(size for size, in_hbm in result[:2] if in_hbm)
  if kind == 'slice-start':  # ((from), to, flag): reads what it writes.
    size = result[-2][0]
    return size * sum(in_hbm for _, in_hbm in (result[0], result[-2]))
  operands = _NAMES.findall(rest.partition(')')[0])
  arrays = result + [array for name in operands for array in _arrays(types.get(name, ''))]
  return sum(size for size, in_hbm in arrays if in_hbm)


def _arrays(text: str) -> Iterator[tuple[int, bool]]:
  """Yields bytes of each array of a type, and whether it lies in HBM."""
  for match in _ARRAY.finditer(text):
    yield (num_bytes(match['dtype'], match['shape']), not _SPACE.search(match['layout'] or ''))
