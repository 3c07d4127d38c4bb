"""Collectives of a compiled program, read from its text."""

from collections import Counter
from collections.abc import Iterable
import dataclasses
import math
import re

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)

# "%x = f32[8,4]{1,0} all-reduce(...)", "= (f32[8], f32[]) all-reduce-start("
_INSTRUCTION = re.compile(
  r'=\s+(?P<type>.*?)\s(?P<kind>' + '|'.join(KINDS) + r')(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(?P<dtype>[a-z]+\d*\w*)\[(?P<shape>[\d,]*)\]')
# "{{0,1},{2,3}}", "[2,4]<=[8]" or "mesh['x'=2,'y'=4] {'y'}".
_GROUPS = re.compile(
  r'replica_groups=(?:\{\{(?P<first>[\d,]+)\}|\[\d+,(?P<size>\d+)\]'
  r'|mesh\[(?P<mesh>[^]]*)\][^{]*\{(?P<axes>[^}]*)\})'
)
_CHANNEL = re.compile(r'channel_id=(\d+)')
_BITS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a program.

  Attributes:
    kind: of `KINDS`.
    arrays: how many arrays it carries.
    num_bytes: of these arrays whole, before a reduce-scatter or after an
      all-gather; each device sends about this much on a ring (twice that for
      an all-reduce).
    group: devices that take part together; 0: all.
  """

  kind: str
  arrays: int
  num_bytes: int
  group: int


def find_collectives(text: str) -> list[Collective]:
  """Finds the collectives in an optimized HLO module.

  Args:
    text: `compiled.as_text()`.

  Returns:
    One `Collective` per instruction, in the order of the text. A loop's body
    counts once, and so does what a TPU spreads over several fusions that
    compute in the meantime: the same kind on the same channel.
  """
  found, channels = [], set()
  for line in text.splitlines():
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    kind, channel = match['kind'], _CHANNEL.search(line)
    if channel:
      if (kind, channel[1]) in channels:
        continue
      channels.add((kind, channel[1]))
    sizes = [
      num_bytes(a['dtype'], a['shape']) for a in _ARRAY.finditer(match['type'])
    ]
    # The asynchronous form returns what goes in, then what comes out (and, of a
    # permutation, two context words).
    if match['start'] and kind == 'all-gather':
      sizes = sizes[len(sizes) // 2 :]
    elif match['start'] and kind == 'collective-permute':
      sizes = sizes[1:2]
    group = _group_size(line)
    whole = max(group, 1) if kind == 'reduce-scatter' else 1
    found.append(Collective(kind, len(sizes), whole * sum(sizes), group))
  return found


def total_bytes(collectives: Iterable[Collective]) -> dict[str, int]:
  """Adds up the bytes of each kind of collective that occurs."""
  totals: Counter[str] = Counter()
  for collective in collectives:
    totals[collective.kind] += collective.num_bytes
  return dict(totals)


def _group_size(line: str) -> int:
  groups = _GROUPS.search(line)
  if not groups:
    return 0
  if groups['size']:
    return int(groups['size'])
  if groups['first']:
    return groups['first'].count(',') + 1
  sizes = dict(pair.split('=') for pair in groups['mesh'].split(','))
  return math.prod(int(sizes[axis]) for axis in groups['axes'].split(','))


def num_bytes(dtype: str, shape: str) -> int:
  """Returns the bytes of an array without padding, of 'bf16' and '8,128'."""
  bits = _BITS.search(dtype)  # pred is a byte.
  size = int(bits[0]) / 8 if bits else 1
  return math.ceil(math.prod(int(n) for n in shape.split(',') if n) * size)
