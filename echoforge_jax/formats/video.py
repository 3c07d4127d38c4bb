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
# Quantizer of the MJPG encoder; 2 is its finest.
_FINEST = 2


def read_video(path: pathlib.Path, stream: io.BytesIO | None = None) -> raw_clip.RawClip:
  """Reads a video to its end, as `decode` does; refuses one that is damaged midway."""
  clip, error = decode(path, stream)
  if error:
    raise _damaged(path, len(clip.frames), error) from error
  return clip


def decode(
  path: pathlib.Path, stream: io.BytesIO | None = None, *, look_for_color: bool = True
) -> tuple[raw_clip.RawClip, Exception | None]:
  """Decodes a video's first video stream to gray frames as far as it goes.

  The number of frames is what decodes, never what the header claims. A video carries no spacing.

  Args:
    path: the video file.
    stream: the video itself where `path` only contains it (DICOM does).
    look_for_color: fills `color` of the clip, which takes time.

  Returns:
    The clip, and the error that ended it before its end, if any.
  """
  pixels, shape, count, ended = bytearray(), None, 0, None
  color, announced, rate = None, 0, None
  try:
    with av.open(stream or str(path)) as container:
      if not container.streams.video:
        kinds = sorted({found.type for found in container.streams})
        raise InputError(
          f'{path}: found {" and ".join(kinds) or "no"} streams only; wanted a video stream: '
          'export the clip as video'
        )
      video = container.streams.video[0]
      rate = video.average_rate or video.guessed_rate
      announced = video.frames
      for frame in container.decode(video):
        image = _upright(frame, 'gray')  # Luma is the gray level.
        shape = shape or image.shape
        if image.shape != shape:
          raise InputError(
            f'{path}: the frame size changes within the video, at frame {count}; wanted one size: '
            'export the clip again'
          )
        raw_clip.checked_size(path, count + 1, *shape)
        is_color = look_for_color and frame.format.name not in _GRAY_FORMATS
        if is_color and ColorSeen.wants(count):
          color = color or ColorSeen(shape)
          color.add(_upright(frame, 'rgb24'))
        pixels += image.tobytes()  # Grows in place: no second copy at the end.
        count += 1
  except InputError:
    raise
  except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
    if not count:
      raise _damaged(path, 0, error) from error
    ended = error
  raw_clip.checked_size(path, count, *(shape or (0, 0)))
  frames = np.frombuffer(pixels, np.uint8).reshape(count, *shape)
  fps = raw_clip.known(float(rate)) if rate else math.nan
  notes, flags = (), ()
  if announced > count:
    notes = (f'the file announces {announced} frames, {count} decode',)
    flags = ('fewer_frames',)
  clip = raw_clip.RawClip(frames, fps=fps, notes=notes, flags=flags, color=color)
  return clip, ended


def _damaged(path, count: int, error: Exception) -> InputError:
  where = f' after {count} frames' if count else ''
  return InputError(
    f'{path}: cannot be decoded as a video{where}: damaged, truncated or of another kind '
    f'({type(error).__name__}); export it again'
  )


def _upright(frame: av.VideoFrame, kind: str) -> np.ndarray:
  """Returns a frame as an array, turned as its container says (phones do)."""
  image = frame.to_ndarray(format=kind)
  turns = round(frame.rotation / 90) % 4
  return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def encode_mjpg(frames: np.ndarray, fps: float) -> bytes:
  """Returns an MJPG AVI of frames uint8 [T, H, W], three equal channels."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='avi') as container:
    stream = container.add_stream('mjpeg', rate=max(round(fps), 1))
    stream.height, stream.width = frames.shape[1:]
    stream.pix_fmt = 'yuvj420p'
    stream.codec_context.qmin = stream.codec_context.qmax = _FINEST
    for gray in frames:
      frame = av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, axis=-1), format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return buffer.getvalue()
