"""Checkpoint -> `Segmenter`: masks of whole clips, or frame by frame."""

from collections.abc import Mapping
import dataclasses
import functools
import math

from etils import epath
from flax import errors
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax import cpu
from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.formats.sector import Sector
from echoforge_jax.inference import confidence as confidences
from echoforge_jax.inference.receipt import model_receipt
from echoforge_jax.inference.stream import FrameLoop, Stream, check_gray, native_mask, squeeze
from echoforge_jax.models import network_file
from echoforge_jax.models.memory import stride_of


def load(checkpoint_dir, which: str = 'teacher', step: str | int = 'latest') -> 'Segmenter':
  """Loads a trained model for inference.

  Args:
    checkpoint_dir: the `--workdir` of a training run; a .safetensors file that
      `export` wrote; or 'default', the model shipped with the package.
    which: 'teacher' (the averaged parameters) or 'student'.
    step: of a run: 'latest', 'best' or a number of updates, see `workdir.choose_step`.
  """
  from echoforge_jax.training import build, checkpoint, workdir  # Slow.

  meta: dict = {}
  if network_file.is_network_path(checkpoint_dir):
    meta = network_file.read(checkpoint_dir)[1]
  elif not epath.Path(checkpoint_dir).is_dir():
    raise InputError(
      f'{checkpoint_dir}: no such directory; wanted the workdir of a training run, a '
      '.safetensors of `echoforge export`, or default'
    )
  kept = {name: meta[name] for name in ('trained_on', 'note') if name in meta}
  step, choice = workdir.choose_step(checkpoint_dir, step, which)
  config, variables, step = checkpoint.restore_for_inference(checkpoint_dir, which, step)
  segmenter = Segmenter(
    build.make_model(config),
    variables,
    classes=tuple(config.data.classes),
    image_size=config.data.image_size,
    receipt=model_receipt(config, variables, step, meta.get('which', which)) | choice | kept,
    confidence=meta.get('confidence'),
  )
  try:
    segmenter.trace()
  except errors.FlaxError as error:
    raise InputError(
      f'{checkpoint_dir}: step {step} does not fit the model as it is now '
      f'({str(error).splitlines()[0][:200]}); use the version that trained it, or train again'
    ) from error
  return segmenter


def frame_step(model, variables, frame, memory):
  """Runs a model on a frame uint8 [S, S]; returns logits [S, S, K] and the memory after it.

  `model.init_memory(1, (S, S))` is the memory before the first frame.
  """
  frame = frame.astype(jnp.float32)[None, :, :, None] / 255.0
  outputs, memory = model.apply(variables, frame, memory, method='step')
  return outputs['logits'][0], memory


@functools.cache
def jit_frame_step():
  """Returns `frame_step`, compiled once per model, whatever the clips."""
  return cpu.jit(frame_step, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """Masks of a clip, and how they came about.

  Attributes:
    masks: uint8 [T, H, W] label values, native size.
    confidence: float64 [T] expected Dice of `lv` (of the first class, where a
      model has none), see `inference.confidence`; 0 where it is empty.
    probability: uint8 [T, S, S] of the same class, 255 being one, on the grid
      that the network saw.
  """

  masks: np.ndarray
  confidence: np.ndarray
  probability: np.ndarray
  sector: Sector
  lag: int = 0
  scaling: confidences.Scaling = confidences.Scaling()
  classes: tuple[str, ...] = ('lv',)
  receipt: Mapping = dataclasses.field(default_factory=dict)


class Segmenter:
  """Masks for ultrasound clips of any size and length.

  Attributes:
    classes: foreground classes in the order of the model's channels.
    labels: uint8 [K], their mask values.
    image_size: S, side of the square that the network sees.
  """

  def __init__(
    self,
    model,
    variables,
    *,
    classes: tuple[str, ...],
    image_size: int,
    receipt: Mapping | None = None,
    confidence: Mapping | None = None,
  ):
    """Wraps a Linen module with `init_memory`, `step` and `delay`.

    `receipt` identifies it in `result.json`; `confidence` is of `confidence.fit`.
    """
    self.model = model
    # Committed, as results are: a mixture would compile the step twice.
    self.device = jax.local_devices()[0]
    self.variables = jax.device_put(variables, self.device)
    self.classes = tuple(classes)
    self.labels = np.asarray([LABELS[name] for name in classes], np.uint8)
    self.image_size = int(image_size)
    self.receipt = dict(receipt or {})
    self.scaling = confidences.Scaling.from_facts(confidence)

  def trace(self) -> None:
    """Traces the step; raises FlaxError if the variables do not fit."""
    size = (self.image_size,) * 2
    frame, memory = jax.ShapeDtypeStruct(size, np.uint8), self.model.init_memory(1, size)
    jit_frame_step().eval_shape(self.model, self.variables, frame, memory)

  def frame_loop(self, *, fps: float = math.nan, lag: int = 0) -> FrameLoop:
    """Starts a clip of squeezed frames; `fps` and `lag` as in `stream`."""
    empty = self.model.init_memory(1, (self.image_size,) * 2)
    step = functools.partial(jit_frame_step(), self.model, self.variables)
    memories = jax.device_put([empty] * stride_of(fps), self.device)
    return FrameLoop(step, memories, delay=self.model.delay, lag=lag)

  def segment(
    self, video, spacing_mm=None, *, fps=math.nan, sector: Sector | None = None, lag=0
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
    """
    return self.segment_clip(video, spacing_mm, fps=fps, sector=sector, lag=lag).masks

  def segment_clip(
    self, video, spacing_mm=None, *, fps=math.nan, sector: Sector | None = None, lag=0
  ) -> Segmentation:
    """As `segment`, with the confidence in every frame and pixel."""
    video = check_gray(video, 3, '[T, H, W]')
    sector = self.locate(video, spacing_mm) if sector is None else sector
    count, size = len(video), self.image_size
    masks = np.zeros(video.shape, np.uint8)
    confidence = np.zeros(count)
    probability = np.zeros((count, size, size), np.uint8)
    channel = self.classes.index('lv') if 'lv' in self.classes else 0
    small = (squeeze(frame, sector, size) for frame in video)
    for index, logits in enumerate(self.frame_loop(fps=fps, lag=lag).run(small)):
      masks[index] = native_mask(logits, sector, video.shape[1:], self.labels)
      likely = self.scaling.probability(logits[..., channel])
      confidence[index] = confidences.expected_dice(likely)
      probability[index] = np.rint(255 * likely)
    return Segmentation(
      masks, confidence, probability, sector, lag, self.scaling, self.classes, self.receipt
    )

  def locate(self, video, spacing_mm=None, region=None) -> Sector:
    """Finds the sector of a clip, as `segment` does.

    No depth over `sector.MAX_DEPTH_MM` is kept; `region` is (top, left, bottom,
    right) to look within, or None.
    """
    row_mm = math.nan if spacing_mm is None else float(spacing_mm[0])
    return sectors.limit_depth(sectors.find_sector(video, region), row_mm)

  def stream(self, *, fps=math.nan, sector: Sector | None = None, lag=0) -> Stream:
    """Starts a stream with an empty memory; see `Stream.step`.

    Args:
      fps: frames per second; NaN where unknown.
      sector: None finds it in the first frame, by light alone.
      lag: frames to wait for smoother masks, see `stream.FixedLag`; 0 gives
        every mask at once, `stream.MAX_LAG` is the most.
    """
    return Stream(self, self.frame_loop(fps=fps, lag=lag), sector)
