"""What a started process runs first: it ties its life to its parent's, then runs its module.

A parent that is killed cannot stop its children; so they watch it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading

GRACE = 5.0
PR_SET_PDEATHSIG = 1


def die_with_parent(pipe: int) -> None:
    """End this process, first gently, once the other end of a pipe is closed.

    On Linux the kernel sends the same signal too, which helps where a fork of the parent still
    holds the pipe.

    Parameters
    ----------
    pipe : int
        File descriptor of the reading end; only the parent holds the writing end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(pipe,), name="parent-watch", daemon=True).start()


def _watch(pipe: int) -> None:
    os.read(pipe, 1)  # nobody writes: this returns at the parent's end
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> None:
    """Run ``python -m services.child PIPE MODULE [ARGUMENT…]``."""
    pipe, module = int(sys.argv[1]), sys.argv[2]
    # A shell that starts its jobs with SIGINT ignored must not make them unstoppable.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent(pipe)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
