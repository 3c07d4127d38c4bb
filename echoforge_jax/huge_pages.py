"""Memory in pages of 2 MB, where Linux gives them only to who asks.

XLA's CPU programs take their temporary memory from the system for every call
and give it back: 2.6 GB a training step at paper size, 650,000 pages of 4 KB
that the kernel clears one by one. glibc (2.35 and later) asks for large pages
where the environment says so, and reads that before a program's first line; so
the process starts itself once more. docs/performance.md has what it gains.
"""

from collections.abc import MutableMapping, Sequence
import os
import pathlib
import sys

_VARIABLE, _VALUE = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'
_SETTING = '/sys/kernel/mm/transparent_hugepage/enabled'


def helps(environ: MutableMapping[str, str], setting: str = _SETTING) -> bool:
  """Whether asking for large pages would change anything.

  Args:
    environ: the environment; who sets GLIBC_TUNABLES has decided.
    setting: the kernel's file, which says '[madvise]' where programs ask.

  Returns:
    False on other systems, and where glibc is older or cannot be told.
  """
  if sys.platform != 'linux' or _VARIABLE in environ:
    return False
  try:
    name, _, version = os.confstr('CS_GNU_LIBC_VERSION').partition(' ')
    new = tuple(map(int, version.split('.')[:2])) >= (2, 35)
    return (
      name == 'glibc'
      and new
      and '[madvise]' in pathlib.Path(setting).read_text()
    )
  except (OSError, ValueError, AttributeError):
    return False


def restart(verbs: Sequence[str]) -> None:
  """Starts this process again with large pages, where that helps.

  Same process number, arguments and files; it happens before anything else, so
  nothing is lost. Call it from a program's entry point only.

  Args:
    verbs: first arguments that it is worth 20 ms for.
  """
  if sys.argv[1:2] and sys.argv[1] in verbs and helps(os.environ):
    os.environ[_VARIABLE] = _VALUE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
