"""AVI, MP4, GIF and every other container PyAV decodes."""

import io
import math
import pathlib

import av
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.formats import raw_clip
from echoforge_jax.formats.color import ColorSeen

_GRAY_FORMATS = ('gray', 'gray10le', 'gray12le', 'gray16le', 'monob', 'monow')


def read_video(
  path: pathlib.Path, stream: io.BytesIO | None = None
) -> raw_clip.RawClip:
  """Decodes a video's first video stream to gray frames.

  The number of frames is what decodes, never what the header claims. A video
  carries no calibration, so the spacing is unknown.

  Args:
    path: the video file.
    stream: the video itself where `path` only contains it (DICOM does).

  Returns:
    The clip.

  Raises:
    InputError: not a video, damaged midway, without frames, or too large.
  """
  pixels, shape, count = bytearray(), None, 0
  color, announced, rate = None, 0, None
  try:
    with av.open(stream or str(path)) as container:
      if not container.streams.video:
        kinds = sorted({found.type for found in container.streams})
        raise InputError(
          f'{path}: found {" and ".join(kinds) or "no"} streams only; '
          'wanted a video stream: export the clip as video'
        )
      video = container.streams.video[0]
      rate = video.average_rate or video.guessed_rate
      announced = video.frames
      for frame in container.decode(video):
        image = _upright(frame, 'gray')
        shape = shape or image.shape
        if image.shape != shape:
          raise InputError(
            f'{path}: the frame size changes within the video, at frame '
            f'{count}; wanted one size: export the clip again'
          )
        raw_clip.checked_size(path, count + 1, *shape)
        if frame.format.name not in _GRAY_FORMATS and ColorSeen.wants(count):
          color = color or ColorSeen(shape)
          color.add(_upright(frame, 'rgb24'))
        pixels += image.tobytes()  # Grows in place: no second copy at the end.
        count += 1
  except (av.FFmpegError, ValueError, MemoryError) as error:
    if isinstance(error, InputError):
      raise
    where = f' after {count} frames' if count else ''
    raise InputError(
      f'{path}: cannot be decoded as a video{where}: damaged, truncated or '
      f'of another kind ({error.__class__.__name__}); export it again'
    ) from error
  raw_clip.checked_size(path, count, *(shape or (0, 0)))
  frames = np.frombuffer(pixels, np.uint8).reshape(count, *shape)
  fps = raw_clip.known(float(rate)) if rate else math.nan
  notes, flags = (), ()
  if announced > count:
    notes = (f'the file announces {announced} frames, {count} decode',)
    flags = ('fewer_frames',)
  return raw_clip.RawClip(
    frames, fps=fps, notes=notes, flags=flags, color=color
  )


def _upright(frame: av.VideoFrame, kind: str) -> np.ndarray:
  """A frame as an array, turned as its container says (phones do)."""
  image = frame.to_ndarray(format=kind)
  turns = round(frame.rotation / 90) % 4
  return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
