"""AVI, MP4, GIF and every other container PyAV decodes."""

import math
import pathlib

import av
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.inference import raw_clip


def read_video(path: pathlib.Path) -> raw_clip.RawClip:
  """Decodes a video's first video stream to gray frames.

  The number of frames is what decodes, never what the header claims. A video
  carries no calibration, so the spacing is unknown.

  Args:
    path: the video file.

  Returns:
    The clip.

  Raises:
    InputError: not a video, damaged midway, or fewer than two frames.
  """
  frames: list[np.ndarray] = []
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise InputError(f'{path}: holds no video stream')
      stream = container.streams.video[0]
      rate = stream.average_rate or stream.guessed_rate
      announced = stream.frames
      for frame in container.decode(stream):
        frames.append(frame.to_ndarray(format='gray'))
        if len(frames) % 256 == 0:
          raw_clip.checked_size(path, len(frames), *frames[0].shape)
  except (av.FFmpegError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    where = f' after {len(frames)} frames' if frames else ''
    raise InputError(
        f'{path}: cannot be decoded as a video{where}: damaged, truncated or '
        f'of another kind ({error.__class__.__name__})') from error
  shape = frames[0].shape if frames else (0, 0)
  raw_clip.checked_size(path, len(frames), *shape)
  if any(frame.shape != shape for frame in frames):
    raise InputError(f'{path}: the frame size changes within the video')
  fps = raw_clip.known(float(rate)) if rate else math.nan
  notes, flags = (), ()
  if announced > len(frames):
    notes = (f'the file announces {announced} frames, {len(frames)} decode',)
    flags = ('fewer_frames',)
  return raw_clip.RawClip(np.stack(frames), fps=fps, notes=notes, flags=flags)
