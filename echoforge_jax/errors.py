"""The one exception that stands for a user's mistake."""


class InputError(ValueError):
  """Input that cannot be used as it is.

  The message names the file or field, what was found, what was wanted and the remedy. The entry
  point prints it as one line, without a traceback, and exits with status 2.

  """
