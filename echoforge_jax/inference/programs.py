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

from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference.segmenter import Segmenter, frame_step
from echoforge_jax.models.registry import DTYPES

PLATFORMS = ('cpu', 'cuda', 'tpu')
_MAX_REASON = 300


@dataclasses.dataclass(frozen=True)
class Program:
  """One serialized program.

  Attributes:
    name: 'clip_float32', 'step_bfloat16', ...
    serialized: what `jax.export.deserialize` takes.
    inputs: (name, shape, dtype) of each argument.
    outputs: the same of each result.
    calling_convention: of jax.export; which JAX can read it.
  """

  name: str
  serialized: bytes
  inputs: tuple[tuple[str, tuple[int, ...], str], ...]
  outputs: tuple[tuple[str, tuple[int, ...], str], ...]
  calling_convention: int

  def entry(self) -> dict:
    """What the manifest says about it."""

    def fields(arrays):
      return [
        {'name': name, 'shape': list(shape), 'dtype': dtype}
        for name, shape, dtype in arrays
      ]

    return {
      'file': f'{self.name}.jaxexp',
      'inputs': fields(self.inputs),
      'outputs': fields(self.outputs),
      'calling_convention_version': self.calling_convention,
      'bytes': len(self.serialized),
      'sha256': hashlib.sha256(self.serialized).hexdigest(),
    }


def memory_fields(model, image_size: int) -> list[tuple[str, np.ndarray]]:
  """The memory of one stream before its first frame, as a flat list.

  Args:
    model: a Linen module with `init_memory`.
    image_size: S.

  Returns:
    (name, array) in the order of the step program's arguments and results.
  """
  memory = model.init_memory(1, (image_size,) * 2)
  leaves, _ = jax.tree_util.tree_flatten_with_path(memory)
  return [
    (jax.tree_util.keystr(path).strip('.'), np.asarray(leaf))
    for path, leaf in leaves
  ]


def make_programs(segmenter: Segmenter, frames: int) -> Iterator[Program]:
  """Exports a model.

  Args:
    segmenter: the model with its parameters.
    frames: T of the clip programs.

  Yields:
    Clip and step, in float32, then in bfloat16.

  Raises:
    InputError: the model has no serializable form.
  """
  size = segmenter.image_size
  variables = jax.tree.map(np.asarray, segmenter._variables)
  frame = ('frame', jax.ShapeDtypeStruct((size, size), np.uint8))
  video = ('video', jax.ShapeDtypeStruct((frames, size, size), np.uint8))
  memory = memory_fields(segmenter._model, size)
  for dtype in DTYPES:
    model = as_exported(segmenter._model, DTYPES[dtype])
    for kind, function, arguments, results in (
      ('clip', clip_function(model, variables), [video], ['logits']),
      (
        'step',
        step_function(model, variables, size),
        [frame, *memory],
        ['logits', *(name for name, _ in memory)],
      ),
    ):
      # Accelerators would multiply float32 with fewer bits by default.
      with jax.default_matmul_precision(
        'highest' if dtype == 'float32' else None
      ):
        program = _export(f'{kind}_{dtype}', function, arguments, results)
      yield program


def as_exported(model, dtype):
  """The module in a compute dtype; one of windows takes clips instead."""
  options = {'dtype': dtype}
  if hasattr(model, 'clips'):
    options['clips'] = True
  return model.clone(**options)


def clip_function(model, variables) -> Callable[[jax.Array], jax.Array]:
  """uint8 [T, S, S] -> logits float32 [T, S, S, K], all frames at once."""

  def clip(video):
    video = video.astype(jnp.float32)[None, ..., None] / 255.0
    logits = model.apply(variables, video, train=False)['logits'][0]
    return logits.astype(jnp.float32)

  return clip


def step_function(model, variables, image_size: int) -> Callable[..., Any]:
  """(frame uint8 [S, S], *memory) -> (logits [S, S, K], *memory)."""
  structure = jax.tree.structure(model.init_memory(1, (image_size,) * 2))

  def step(frame, *memory):
    logits, memory = frame_step(
      model, variables, frame, jax.tree.unflatten(structure, memory)
    )
    return logits.astype(jnp.float32), *jax.tree.leaves(memory)

  return step


def _export(name: str, function, arguments, results) -> Program:
  specs = [
    jax.ShapeDtypeStruct(value.shape, value.dtype) for _, value in arguments
  ]
  try:
    with _without_locations():
      exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(
        *specs
      )
    serialized = bytes(exported.serialize())
  except ImportError as error:  # JAX's own reader and writer need it.
    raise InputError(
      'export: the package flatbuffers is missing; run '
      '`pip install flatbuffers`'
    ) from error
  # Such as custom calls without a guarantee, or none for some platform.
  except (ValueError, NotImplementedError) as error:
    reason = ' '.join(str(error).split())[:_MAX_REASON]
    raise InputError(
      f'export: {name} has no serializable form ({reason}); '
      'another model option may have one'
    ) from error
  outputs = jax.tree.leaves(exported.out_avals)

  def fields(names, avals):
    return tuple(
      (name, tuple(aval.shape), np.dtype(aval.dtype).name)
      for name, aval in zip(names, avals, strict=True)
    )

  return Program(
    name,
    serialized,
    fields([name for name, _ in arguments], specs),
    fields(results, outputs),
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


def parity(segmenter: Segmenter, program: Program, video: np.ndarray) -> dict:
  """Runs a program from its bytes and compares it with the segmenter.

  Args:
    segmenter: what it was made from.
    program: of `make_programs`.
    video: uint8 [T, S, S].

  Returns:
    Largest differences of `logits` (and `logits_magnitude`, the largest logit)
    and of `probabilities`, and the share of `pixels` on the other side of 0.5.
  """
  exported = jax.export.deserialize(bytearray(program.serialized))
  call = jax.jit(exported.call)
  wanted = reference_logits(segmenter, video)
  if program.name.startswith('clip'):
    found = np.asarray(call(video))
  else:
    delay, found = segmenter._model.delay, []
    memory = [
      value
      for _, value in memory_fields(segmenter._model, segmenter.image_size)
    ]
    for frame in [*video, *[video[-1]] * delay]:
      logits, *memory = call(frame, *memory)
      found.append(np.asarray(logits))
    found = np.stack(found[delay:])

  def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x.astype(np.float64)))

  return {
    'logits': float(np.abs(found - wanted).max()),
    'logits_magnitude': float(np.abs(wanted).max()),
    'probabilities': float(np.abs(sigmoid(found) - sigmoid(wanted)).max()),
    'pixels': float(((found > 0) != (wanted > 0)).mean()),
  }


def reference_logits(segmenter: Segmenter, video: np.ndarray) -> np.ndarray:
  """The segmenter's own logits, frame by frame, at the network's size.

  Args:
    segmenter: the model.
    video: uint8 [T, S, S].

  Returns:
    float32 [T, S, S, K].
  """
  from echoforge_jax.formats.sector import whole_image

  stream = segmenter.stream(sector=whole_image(video.shape[1:]))
  logits = [stream.advance(frame) for frame in video]
  logits = [x for x in logits if x is not None] + list(stream.drain())
  return np.stack([np.asarray(x, np.float32) for x in logits])


_DISTINCT = 32  # Frames that are made, and shown again and again.


def frames_of(size: tuple[int, int], seed: int = 0) -> np.ndarray:
  """Speckle in a sector, black around it.

  Args:
    size: (H, W).
    seed: of the noise.

  Returns:
    uint8 [32, H, W].
  """
  noise = np.random.default_rng(seed).integers(
    20, 200, (_DISTINCT, *size), dtype=np.uint8
  )
  sector = sectors.sector_pixels(
    size, (0, size[1] / 2), 0.97 * size[0], (0.65, 0.65)
  )
  return np.where(sector, noise, np.uint8(0))
