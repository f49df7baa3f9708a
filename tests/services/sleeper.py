"""A process to be launched by tests: it writes its pid, then behaves as it is told."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def main() -> None:
    pid_file, *ways = sys.argv[1:]
    print("sleeper starts", ways, flush=True)
    if "deaf" in ways:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in ways:
        child = subprocess.Popen(
            [sys.executable, "-c", "import threading; threading.Event().wait(600)"]
        )
        Path(f"{pid_file}.child").write_text(str(child.pid))
    if "fail" in ways:
        sys.exit("the sleeper fails, as it was told")
    Path(pid_file).write_text(str(os.getpid()))
    threading.Event().wait(600)


if __name__ == "__main__":
    main()
