"""Collectives of a compiled program, read from its text."""

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


def find_exchanges(text: str) -> dict[str, tuple[int, int]]:
  """Returns (how many, bytes) of each kind of collective in `compiled.as_text()`.

  Bytes are of the whole arrays, before a reduce-scatter or after an all-gather; on a ring each
  device sends about this much, twice that for an all-reduce. A loop's body counts once, and so
  does what a TPU spreads over several fusions: the same kind on the same channel.
  """
  found, channels = {}, set()
  for line in text.splitlines():
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    kind, channel = match['kind'], _CHANNEL.search(line)
    if channel:
      if (kind, channel[1]) in channels:
        continue
      channels.add((kind, channel[1]))
    sizes = [num_bytes(a['dtype'], a['shape']) for a in _ARRAY.finditer(match['type'])]
    # The asynchronous form returns inputs, then outputs (of a permutation, also two words).
    if match['start'] and kind == 'all-gather':
      sizes = sizes[len(sizes) // 2 :]
    elif match['start'] and kind == 'collective-permute':
      sizes = sizes[1:2]
    shares = _group_size(line) if kind == 'reduce-scatter' else 1
    count, total = found.get(kind, (0, 0))
    found[kind] = count + 1, total + shares * sum(sizes)
  return found


def _group_size(line: str) -> int:
  """Counts the devices that take part together; 1 where the line does not say."""
  groups = _GROUPS.search(line)
  if not groups:
    return 1
  if groups['size']:
    return int(groups['size'])
  if groups['first']:
    return groups['first'].count(',') + 1
  sizes = dict(pair.split('=') for pair in groups['mesh'].split(','))
  return math.prod(int(sizes[axis]) for axis in groups['axes'].split(','))


def num_bytes(dtype: str, shape: str) -> int:
  """Returns the bytes of an array without padding, of 'bf16' and '8,128'."""
  bits = re.search(r'\d+', dtype)  # pred is a byte.
  size = int(bits[0]) / 8 if bits else 1
  return math.ceil(math.prod(int(n) for n in shape.split(',') if n) * size)
