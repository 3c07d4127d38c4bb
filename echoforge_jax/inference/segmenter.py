"""Checkpoint -> `Segmenter`: masks of whole clips, or frame by frame.

A clip is segmented by the same jitted step a live stream uses, so that both
give the same masks bit for bit, any number of frames compiles once, and a
clip of hours needs no more accelerator memory than one frame.
"""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import itertools
import math

import cv2
from etils import epath
from flax import errors
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax import cpu
from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.formats import resize as squeeze
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import confidence as confidences
from echoforge_jax.inference import lag as lags
from echoforge_jax.inference import receipt as receipts
from echoforge_jax.models.memory import stride_of

# Frames in flight before their results are fetched.
_IN_FLIGHT = 8


def load(checkpoint_dir, which: str = 'teacher') -> 'Segmenter':
  """Loads a trained model for inference.

  Args:
    checkpoint_dir: the `--workdir` of a training run; a file that `export`
      wrote (.safetensors); or 'default', the model shipped with the package.
    which: 'teacher' (the averaged parameters) or 'student'.

  Returns:
    The segmenter.

  Raises:
    InputError: no checkpoint there, or its parameters are of another version's
      model.
  """
  from echoforge_jax.models import network_file  # Slow.
  from echoforge_jax.training import build, checkpoint

  if not network_file.is_network_path(checkpoint_dir) and (
    not epath.Path(checkpoint_dir).is_dir()
  ):
    raise InputError(
      f'{checkpoint_dir}: no such directory; wanted the workdir of a '
      'training run, a .safetensors of `echoforge export`, or default'
    )
  config, variables, step = checkpoint.restore_for_inference(
    checkpoint_dir, which
  )
  facts = None
  if network_file.is_network_path(checkpoint_dir):
    meta = network_file.read(checkpoint_dir)[1]
    facts, which = meta.get('confidence'), meta['which']
  segmenter = Segmenter(
    build.make_model(config),
    variables,
    classes=tuple(config.data.classes),
    image_size=config.data.image_size,
    receipt=receipts.model_receipt(config, variables, step, which),
    calibration=facts,
  )
  try:
    segmenter.trace()
  except errors.FlaxError as error:
    raise InputError(
      f'{checkpoint_dir}: step {step} does not fit the model as it is now '
      f'({str(error).splitlines()[0][:200]}); use the version that trained '
      'it, or train again'
    ) from error
  return segmenter


def frame_step(model, variables, frame, memory):
  """One frame of one clip.

  Args:
    model: a Linen module with the method `step`.
    variables: its {'params': ..., ...}.
    frame: uint8 [S, S] gray levels.
    memory: of the frames before, as `model.init_memory(1, (S, S))` begins it.

  Returns:
    Logits [S, S, K] and the memory after.
  """
  frame = frame.astype(jnp.float32)[None, :, :, None] / 255.0
  outputs, memory = model.apply(variables, frame, memory, method='step')
  return outputs['logits'][0], memory


@functools.cache
def jit_frame_step():
  """`frame_step`, compiled once a model, whatever the clips."""
  return cpu.jit(frame_step, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """What a clip's segmentation says.

  Attributes:
    masks: uint8 [T, H, W] label values, native size.
    confidence: float64 [T] expected Dice of `lv` (of the first class, where a
      model has none), see `inference.confidence`; 0 where it is empty.
    probability: uint8 [T, S, S] of the same class, 255 being one, on the
      grid that the network saw.
  """

  masks: np.ndarray
  confidence: np.ndarray
  probability: np.ndarray


class Segmenter:
  """Masks for ultrasound clips of any size and length."""

  def __init__(
    self,
    model,
    variables,
    *,
    classes: tuple[str, ...],
    image_size: int,
    receipt: dict | None = None,
    calibration: Mapping | None = None,
  ):
    """Wraps a model.

    Args:
      model: a Linen module with `init_memory`, the method `step` and its
        `delay`.
      variables: its {'params': ..., ...}.
      classes: foreground classes in the order of the model's channels, names
        of `clip.LABELS`.
      image_size: side of the square the model was trained on.
      receipt: what identifies the model, for `result.json`.
      calibration: of `confidence.fit`; None where none was made.
    """
    self.classes = tuple(classes)
    self.image_size = int(image_size)
    self.receipt = dict(receipt or {})
    self.calibration = confidences.Calibration.from_facts(calibration)
    self._model = model
    # Committed, as results are: a mixture would compile the step twice.
    self._device = jax.local_devices()[0]
    self._variables = jax.device_put(variables, self._device)
    self._labels = np.asarray([LABELS[name] for name in classes], np.uint8)

  def trace(self) -> None:
    """Traces the step, which would be done at the first frame otherwise.

    Raises:
      FlaxError: the variables are not the model's.
    """
    side = self.image_size
    jit_frame_step().eval_shape(
      self._model,
      self._variables,
      jax.ShapeDtypeStruct((side, side), np.uint8),
      self._model.init_memory(1, (side, side)),
    )

  def segment(
    self,
    video,
    spacing_mm=None,
    *,
    fps: float = math.nan,
    sector: sectors.Sector | None = None,
    lag: int = 0,
  ) -> np.ndarray:
    """Segments one clip.

    Args:
      video: uint8 [T, H, W] gray levels, native size.
      spacing_mm: mm per pixel (row, column); limits the depth of the view to
        what training knows. None or NaN where unknown.
      fps: frames per second, for the pace of the memory; NaN where unknown.
      sector: where the ultrasound lies; None finds it.
      lag: frames on either side to average with, see `stream`.

    Returns:
      uint8 [T, H, W] label values of `clip.LABELS`.

    Raises:
      InputError: the video is not uint8 [T, H, W], or the lag is none.
    """
    return self.segment_clip(
      video, spacing_mm, fps=fps, sector=sector, lag=lag
    ).masks

  def segment_clip(
    self,
    video,
    spacing_mm=None,
    *,
    fps: float = math.nan,
    sector: sectors.Sector | None = None,
    lag: int = 0,
  ) -> Segmentation:
    """As `segment`, with the confidence in every frame and pixel."""
    video = _checked(video, 3, '[T, H, W]')
    if sector is None:
      sector = self.locate(video, spacing_mm)
    stream = self.stream(fps=fps, sector=sector, lag=lag)
    size = (self.image_size,) * 2
    found = Segmentation(
      np.zeros(video.shape, np.uint8),
      np.zeros(len(video)),
      np.zeros((len(video), *size), np.uint8),
    )

    channel = self.classes.index('lv') if 'lv' in self.classes else 0

    def keep(index, logits):
      logits = np.asarray(logits, np.float32)
      probability = self.calibration.probability(logits[..., channel])
      found.masks[index] = stream.mask(logits)
      found.confidence[index] = confidences.expected_dice(probability)
      found.probability[index] = np.rint(255 * probability)

    pending = collections.deque()
    outputs = itertools.chain(map(stream.advance, video), stream.drain())
    ready = (logits for logits in outputs if logits is not None)
    for index, logits in enumerate(ready):
      pending.append((index, logits))
      if len(pending) == _IN_FLIGHT:
        keep(*pending.popleft())
    for index, logits in pending:
      keep(index, logits)
    return found

  def locate(self, video, spacing_mm=None, region=None) -> sectors.Sector:
    """The sector of a clip as `segment` would take it.

    Args:
      video: uint8 [T, H, W].
      spacing_mm: mm per pixel (row, column), None or NaN where unknown.
      region: (top, left, bottom, right) to look within, or None.

    Returns:
      The sector, no deeper than `sector.MAX_DEPTH_MM`.
    """
    row_mm = math.nan if spacing_mm is None else float(spacing_mm[0])
    return sectors.limit_depth(sectors.find_sector(video, region), row_mm)

  def stream(
    self,
    *,
    fps: float = math.nan,
    sector: sectors.Sector | None = None,
    lag: int = 0,
  ) -> 'Stream':
    """Starts a stream; see `Stream.step`.

    Args:
      fps: frames per second; NaN where unknown.
      sector: where the ultrasound lies; None finds it in the first frame,
        by light alone.
      lag: L frames to wait for smoother masks: the logits of a frame are
        averaged with those of L frames before and L after, with triangular
        weights (ours). 0: every mask at once.

    Returns:
      The stream, with an empty memory.

    Raises:
      InputError: the lag is not a whole number from 0 to `lag.MAX_LAG`.
    """
    return Stream(self, stride_of(fps), sector, lags.check(lag))


class Stream:
  """A clip in progress: the sector, and the memory of what was seen.

  Attributes:
    sector: where the ultrasound lies; None before the first frame.
    delay: frames that masks lag behind. 0 for a causal model (EchoForge); a
      model that looks at the next frame (SSCF) gives a frame's mask when that
      has come, and the stride apart, so that `delay` is the stride. A fixed
      lag adds to it.
  """

  def __init__(
    self,
    segmenter: Segmenter,
    stride: int,
    sector: sectors.Sector | None,
    lag: int = 0,
  ):
    self.sector = sector
    self._behind = segmenter._model.delay * stride
    self.delay = self._behind + lag
    self._lag = lags.FixedLag(lag) if lag else None
    self._segmenter = segmenter
    # Frames t, t + stride, t + 2 stride, ... share a memory.
    size = (segmenter.image_size,) * 2
    self._memories = jax.device_put(
      [segmenter._model.init_memory(1, size) for _ in range(stride)],
      segmenter._device,
    )
    self._last: list[np.ndarray | None] = [None] * stride
    self._shape: tuple[int, int] | None = None
    self._count = 0
    self._ended = False

  def step(self, frame) -> np.ndarray:
    """Takes the next frame; segments the one `delay` frames before it.

    Args:
      frame: uint8 [H, W], the same size throughout.

    Returns:
      uint8 [H, W] label values of `clip.LABELS` of frame t - delay, t
      being this one; all zero for the first `delay` calls.

    Raises:
      InputError: the frame is not uint8 [H, W], its size changed, or the
        stream has ended.
    """
    logits = self.advance(_checked(frame, 2, '[H, W]'))
    if logits is None:
      return np.zeros(self._shape, np.uint8)
    return self.mask(logits)

  def flush(self) -> np.ndarray:
    """Ends the stream: the masks that `step` still owes.

    The last frame stands for the ones that it can no longer see, as at the
    end of a clip.

    Returns:
      uint8 [n, H, W], oldest first, of the last n = `delay` frames (of all if
      there were fewer); n is 0 for a causal model.
    """
    masks = [self.mask(logits) for logits in self.drain()]
    if not masks:
      return np.zeros((0, *(self._shape or (0, 0))), np.uint8)
    return np.stack(masks)

  def drain(self) -> Iterator[jax.Array]:
    """Ends the stream; yields the logits [S, S, K] still owed."""
    self._ended = True
    for owner in range(max(self._count - self._behind, 0), self._count):
      turn = owner % len(self._memories)
      logits = self._smooth(self._run(turn, self._last[turn]))
      if logits is not None:
        yield logits
    if self._lag:
      yield from self._lag.drain()

  def advance(self, frame: np.ndarray) -> jax.Array | None:
    """Feeds a frame.

    Returns:
      Logits [S, S, K] of the frame `delay` earlier, perhaps still being
      computed; None where there is no such frame.
    """
    if self._ended:
      raise InputError('the stream was flushed and has ended; start a new one')
    if self._shape is None:
      self._shape = frame.shape
    if frame.shape != self._shape:
      raise InputError(
        f'frame {self._count} is {list(frame.shape)}; wanted '
        f'{list(self._shape)} as the frames before it'
      )
    if self.sector is None:
      self.sector = sectors.find_sector(frame[None])
    small = squeeze.squeeze_frames(
      self.sector.crop(frame)[None], self._segmenter.image_size
    )[0]
    turn = self._count % len(self._memories)
    self._last[turn] = small
    self._count += 1
    logits = self._run(turn, small)
    return self._smooth(logits) if self._count > self._behind else None

  def _smooth(self, logits: jax.Array) -> jax.Array | None:
    return self._lag.push(logits) if self._lag else logits

  def _run(self, turn: int, small: np.ndarray) -> jax.Array:
    logits, self._memories[turn] = jit_frame_step()(
      self._segmenter._model,
      self._segmenter._variables,
      small,
      self._memories[turn],
    )
    return logits

  def mask(self, logits) -> np.ndarray:
    """Logits [S, S, K] -> native mask uint8 [H, W]."""
    top, left, bottom, right = self.sector.box
    labels = labels_of(
      np.asarray(logits, np.float32),
      (bottom - top, right - left),
      self._segmenter._labels,
    )
    return self.sector.paste(labels, self._shape)


def labels_of(
  logits: np.ndarray, shape: tuple[int, int], labels: np.ndarray
) -> np.ndarray:
  """Native labels from the logits of a squeezed frame.

  Args:
    logits: float32 [S, S, K].
    shape: (h, w) to interpolate to, bilinearly, before the threshold.
    labels: uint8 [K] mask value of each channel.

  Returns:
    uint8 [h, w]: the label of the largest logit where it is positive
    (probability above one half), else 0.
  """
  planes = np.stack(
    [
      cv2.resize(
        np.ascontiguousarray(logits[..., k]),
        shape[::-1],
        interpolation=cv2.INTER_LINEAR,
      )
      for k in range(logits.shape[-1])
    ]
  )
  best = planes.argmax(axis=0)
  return np.where(planes.max(axis=0) > 0, labels[best], 0).astype(np.uint8)


def _checked(array, dimensions: int, wanted: str) -> np.ndarray:
  array = np.asarray(array)
  if array.ndim != dimensions or array.dtype != np.uint8 or not array.size:
    raise InputError(
      f'found an array of type {array.dtype} and shape {list(array.shape)}; '
      f'wanted uint8 gray levels {wanted}'
    )
  return array
