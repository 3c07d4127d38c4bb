"""Child processes that end with their launcher. Standard library only."""

from collections.abc import Collection
import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def spawn(command: list[str], *, cores: Collection[int] = (), **options: Any) -> subprocess.Popen:
  """Starts a child in a process group of its own; ask `status`, not `poll`, whether it has ended.

  Ctrl-C in a terminal reaches the launcher only. On Linux the kernel kills the child where the
  launcher is killed (`kill -9` included). Call it from the main thread: the kernel watches the
  thread that forks. `cores` are those that the child may use; none: all. `options` are those of
  `subprocess.Popen`.
  """
  # A stepping stone in place of `preexec_fn`, which is unsafe beside threads.
  numbers = ','.join(map(str, cores))
  stone = [sys.executable, '-I', '-S', __file__, str(os.getpid()), numbers]
  return subprocess.Popen(
    [*stone, *command], stdin=subprocess.DEVNULL, start_new_session=True, **options
  )


def status(child: subprocess.Popen) -> int | None:
  """Returns the exit status, 128 + n for signal n, and kills the group; None while it runs."""
  if child.returncode is None:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if os.waitid(os.P_PID, child.pid, flags) is None:
      return None
    _kill_group(child)  # Before its number is free for another process.
    child.wait()
  return child.returncode if child.returncode >= 0 else 128 - child.returncode


def kill(child: subprocess.Popen) -> None:
  """Kills a child and its group, where it still runs, and waits for it."""
  if status(child) is None:
    _kill_group(child)
    child.wait()


def _kill_group(child: subprocess.Popen) -> None:
  try:
    os.killpg(child.pid, signal.SIGKILL)
  except (ProcessLookupError, PermissionError):  # Nothing is left of it.
    pass


class StopSignals:
  """Records SIGTERM and SIGINT in `received` in place of their usual effect."""

  def __init__(self):
    self.received: list[int] = []
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopSignals':
    for number in (signal.SIGTERM, signal.SIGINT):
      self._previous[number] = signal.signal(number, lambda number, _: self.received.append(number))
    return self

  def __exit__(self, *unused) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)


def _become(parent: int, cores: str, command: list[str]) -> None:
  """Asks to be killed with the parent, keeps to cores, then turns into the command."""
  if cores:
    os.sched_setaffinity(0, map(int, cores.split(',')))
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the call above.
      sys.exit(128 + signal.SIGKILL)
  os.execvp(command[0], command)


if __name__ == '__main__':
  _become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
