"""A model as serialized programs that need JAX, and nothing of this package.

There are four per model: a clip of T frames at once and one step of a stream,
each in float32 and bfloat16. Parameters are constants of the program.
"""

from collections.abc import Callable, Iterator
import contextlib
import hashlib
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from scipy import special

from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference.segmenter import Segmenter, frame_step
from echoforge_jax.inference.stream import FrameLoop
from echoforge_jax.models.registry import DTYPES

PLATFORMS = ('cpu', 'cuda', 'tpu')
_MAX_REASON = 300


class ExportedProgram(NamedTuple):
  """One serialized program."""

  name: str  # 'clip_float32', 'step_bfloat16', ...
  serialized: bytes  # What `jax.export.deserialize` takes.
  entry: dict  # Of the manifest.


def memory_fields(model, image_size: int) -> list[tuple[str, np.ndarray]]:
  """Returns the empty memory of one stream in the order of the step program's arguments."""
  memory = model.init_memory(1, (image_size,) * 2)
  leaves, _ = jax.tree_util.tree_flatten_with_path(memory)
  return [(jax.tree_util.keystr(path).strip('.'), np.asarray(leaf)) for path, leaf in leaves]


def make_programs(segmenter: Segmenter, frames: int) -> Iterator[ExportedProgram]:
  """Yields clip (of so many frames) and step, in float32, then in bfloat16."""
  size = segmenter.image_size
  variables = jax.tree.map(np.asarray, segmenter.variables)
  memory = memory_fields(segmenter.model, size)
  video = ('video', jax.ShapeDtypeStruct((frames, size, size), np.uint8))
  frame = ('frame', jax.ShapeDtypeStruct((size, size), np.uint8))
  results = ['logits', *(name for name, _ in memory)]
  # A model of windows takes clips.
  options = {'clips': True} if hasattr(segmenter.model, 'clips') else {}
  for name, dtype in DTYPES.items():
    clip, step = _functions(segmenter.model.clone(dtype=dtype, **options), variables, size)
    # Accelerators would multiply float32 with fewer bits by default.
    with jax.default_matmul_precision('highest' if name == 'float32' else None):
      yield export_program(f'clip_{name}', clip, [video], results[:1])
      yield export_program(f'step_{name}', step, [frame, *memory], results)


def _functions(model, variables, image_size: int) -> tuple[Callable, Callable]:
  """Returns the functions of all frames at once and of one step, with logits in float32."""
  structure = jax.tree.structure(model.init_memory(1, (image_size,) * 2))

  def clip(video):
    video = video.astype(jnp.float32)[None, ..., None] / 255.0
    logits = model.apply(variables, video, train=False)['logits'][0]
    return logits.astype(jnp.float32)

  def step(frame, *memory):
    logits, memory = frame_step(model, variables, frame, jax.tree.unflatten(structure, memory))
    return logits.astype(jnp.float32), *jax.tree.leaves(memory)

  return clip, step


def export_program(name: str, function: Callable, arguments, results) -> ExportedProgram:
  """Serializes a function of `arguments`, (name, array or its shape), for all platforms."""
  specs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in arguments]
  try:
    with _without_locations():
      exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*specs)
    serialized = bytes(exported.serialize())
  except ImportError as error:  # JAX's own reader and writer need it.
    raise InputError(
      'export: the package flatbuffers is missing; run `pip install flatbuffers`'
    ) from error
  # Such as custom calls without a guarantee, or none for some platform.
  except (ValueError, NotImplementedError) as error:
    reason = ' '.join(str(error).split())[:_MAX_REASON]
    raise InputError(
      f'export: {name} has no serializable form ({reason}); another model option may have one'
    ) from error

  def fields(names, avals):
    return [
      {'name': name, 'shape': aval.shape, 'dtype': np.dtype(aval.dtype).name}
      for name, aval in zip(names, avals, strict=True)
    ]

  entry = {
    'file': f'{name}.jaxexp',
    'inputs': fields([name for name, _ in arguments], specs),
    'outputs': fields(results, jax.tree.leaves(exported.out_avals)),
    'calling_convention_version': exported.calling_convention_version,
    'bytes': len(serialized),
    'sha256': hashlib.sha256(serialized).hexdigest(),
  }
  return ExportedProgram(name, serialized, entry)


@contextlib.contextmanager
def _without_locations():
  """Keeps the paths of this machine's source files out of programs."""
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def parity(segmenter: Segmenter, program: ExportedProgram, video: np.ndarray) -> dict:
  """Runs a program from its bytes on uint8 [T, S, S] and compares it with the segmenter.

  Returns:
    Largest differences of `logits` (and `logits_magnitude`, the largest logit)
    and of `probabilities`, and the share of `pixels` on the other side of 0.5.
  """
  call = jax.jit(jax.export.deserialize(bytearray(program.serialized)).call)
  wanted = reference_logits(segmenter, video)
  if program.name.startswith('clip'):
    found = np.asarray(call(video))
  else:

    def step(frame, memory):
      logits, *memory = call(frame, *memory)
      return logits, memory

    memory = memory_fields(segmenter.model, segmenter.image_size)
    loop = FrameLoop(step, [[array for _, array in memory]], delay=segmenter.model.delay)
    found = np.stack(list(loop.run(video)))
  likely = [special.expit(x.astype(np.float64)) for x in (found, wanted)]
  return {
    'logits': float(np.abs(found - wanted).max()),
    'logits_magnitude': float(np.abs(wanted).max()),
    'probabilities': float(np.abs(likely[0] - likely[1]).max()),
    'pixels': float(((found > 0) != (wanted > 0)).mean()),
  }


def reference_logits(segmenter: Segmenter, video: np.ndarray) -> np.ndarray:
  """Returns the segmenter's own logits of uint8 [T, S, S]: [T, S, S, K]."""
  return np.stack(list(segmenter.frame_loop().run(video)))


def frames_of(size: tuple[int, int], seed: int = 0) -> np.ndarray:
  """Makes speckle in a sector, black around it: uint8 [32, H, W]."""
  noise = np.random.default_rng(seed).integers(20, 200, (32, *size), dtype=np.uint8)
  sector = sectors.sector_pixels(size, (0, size[1] / 2), 0.97 * size[0], (0.65, 0.65))
  return np.where(sector, noise, np.uint8(0))
