"""A model as serialized programs that need JAX, and nothing of this package.

Four for every model: a clip of T frames at once and one step of a stream, each
in float32 and bfloat16. Parameters are constants of the program; it is lowered
for CPU, CUDA and TPU together.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import hashlib
from typing import Any

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
# (name, shape, dtype) of an argument or a result.
Field = tuple[str, tuple[int, ...], str]


@dataclasses.dataclass(frozen=True)
class ExportedProgram:
  """One serialized program.

  Attributes:
    name: 'clip_float32', 'step_bfloat16', ...
    serialized: what `jax.export.deserialize` takes.
    inputs: of each argument.
    outputs: of each result.
    calling_convention: of jax.export; which JAX can read it.
  """

  name: str
  serialized: bytes
  inputs: tuple[Field, ...]
  outputs: tuple[Field, ...]
  calling_convention: int

  def entry(self) -> dict:
    """Returns what the manifest says about it."""
    keys = ('name', 'shape', 'dtype')
    return {
      'file': f'{self.name}.jaxexp',
      'inputs': [dict(zip(keys, field)) for field in self.inputs],
      'outputs': [dict(zip(keys, field)) for field in self.outputs],
      'calling_convention_version': self.calling_convention,
      'bytes': len(self.serialized),
      'sha256': hashlib.sha256(self.serialized).hexdigest(),
    }


def memory_fields(model, image_size: int) -> list[tuple[str, np.ndarray]]:
  """Returns the empty memory of one stream of frames [S, S].

  It is flat: (name, array) in the order of the step program's arguments.
  """
  memory = model.init_memory(1, (image_size,) * 2)
  leaves, _ = jax.tree_util.tree_flatten_with_path(memory)
  return [(jax.tree_util.keystr(path).strip('.'), np.asarray(leaf)) for path, leaf in leaves]


def make_programs(segmenter: Segmenter, frames: int) -> Iterator[ExportedProgram]:
  """Yields clip (of so many frames) and step, in float32, then in bfloat16.

  Raises:
    InputError: the model has no serializable form.
  """
  size = segmenter.image_size
  variables = jax.tree.map(np.asarray, segmenter.variables)
  memory = memory_fields(segmenter.model, size)
  video = ('video', jax.ShapeDtypeStruct((frames, size, size), np.uint8))
  frame = ('frame', jax.ShapeDtypeStruct((size, size), np.uint8))
  results = ['logits', *(name for name, _ in memory)]
  for name, dtype in DTYPES.items():
    model = _as_exported(segmenter.model, dtype)
    clip = _clip_function(model, variables)
    step = _step_function(model, variables, size)
    # Accelerators would multiply float32 with fewer bits by default.
    precision = 'highest' if name == 'float32' else None
    with jax.default_matmul_precision(precision):
      yield export_program(f'clip_{name}', clip, [video], results[:1])
      yield export_program(f'step_{name}', step, [frame, *memory], results)


def _as_exported(model, dtype):
  """Returns the module in a compute dtype; one of windows takes clips."""
  options = {'clips': True} if hasattr(model, 'clips') else {}
  return model.clone(dtype=dtype, **options)


def _clip_function(model, variables) -> Callable[[jax.Array], jax.Array]:
  """uint8 [T, S, S] -> logits float32 [T, S, S, K], all frames at once."""

  def clip(video):
    video = video.astype(jnp.float32)[None, ..., None] / 255.0
    logits = model.apply(variables, video, train=False)['logits'][0]
    return logits.astype(jnp.float32)

  return clip


def _step_function(model, variables, image_size: int) -> Callable[..., Any]:
  """(frame uint8 [S, S], *memory) -> (logits [S, S, K], *memory)."""
  structure = jax.tree.structure(model.init_memory(1, (image_size,) * 2))

  def step(frame, *memory):
    logits, memory = frame_step(model, variables, frame, jax.tree.unflatten(structure, memory))
    return logits.astype(jnp.float32), *jax.tree.leaves(memory)

  return step


def export_program(name: str, function: Callable, arguments, results) -> ExportedProgram:
  """Serializes a function of arrays for all platforms.

  Args:
    name: of the program.
    function: what is serialized.
    arguments: (name, array or its shape) of each.
    results: names.

  Raises:
    InputError: it has no serializable form.
  """
  specs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in arguments]
  try:
    with _without_locations():
      jitted = jax.jit(function)
      exported = jax.export.export(jitted, platforms=PLATFORMS)(*specs)
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
    return tuple(
      (name, tuple(aval.shape), np.dtype(aval.dtype).name)
      for name, aval in zip(names, avals, strict=True)
    )

  return ExportedProgram(
    name,
    serialized,
    fields([name for name, _ in arguments], specs),
    fields(results, jax.tree.leaves(exported.out_avals)),
    exported.calling_convention_version,
  )


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
  """Runs a program from its bytes and compares it with the segmenter.

  Args:
    segmenter: what it was made from.
    program: of `make_programs`.
    video: uint8 [T, S, S].

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
