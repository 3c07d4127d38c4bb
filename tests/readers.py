"""A reader of clips that tests make up."""

from echoforge_jax.data.datasets import Reader


class MadeUp(Reader):
  """Lists `clips_of(split)` and reads `read(patient, view)`."""

  def __init__(self, raw_dir, clips_of, read):
    super().__init__(raw_dir)
    self.clips_of, self.read = clips_of, read

  def list_clips(self, split, scheme):
    return self.clips_of(split)

  def read_clip(self, patient, view):
    return self.read(patient, view)
