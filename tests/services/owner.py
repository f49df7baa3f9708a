"""A parent of launched processes, for tests that kill it: launches one sleeper and waits."""

import sys
import threading
from pathlib import Path

from services.launcher import Launcher, Service


def main() -> None:
    folder, *ways = sys.argv[1:]
    pid_file = Path(folder) / "pid"
    service = Service("sleeper", "tests.services.sleeper", pid_file.exists, (str(pid_file), *ways))
    with Launcher(Path(folder) / "log") as launcher:
        launcher.start(service)
        launcher.wait()
        (Path(folder) / "up").touch()
        threading.Event().wait(600)


if __name__ == "__main__":
    main()
