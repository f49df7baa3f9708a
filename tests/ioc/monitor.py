"""A client that monitors an IOC until it is killed: ``python -m tests.ioc.monitor PREFIX``."""

from __future__ import annotations

import sys
import time

from caproto.threading.client import Context

NAMES = (
    "STAGE:X.RBV", "STAGE:X.DRBV", "STAGE:X.DIFF", "STAGE:Y.RBV", "STAGE:Aperture_RBV",
    "CAM:cam1:ArrayCounter_RBV", "CAM:cam1:NumImagesCounter_RBV", "CAM:cam1:DetectorState_RBV",
    "CAM:cam1:StatusMessage_RBV", "CAM:cam1:TimeRemaining_RBV", "CAM:Stats1:MeanValue_RBV",
    "CAM:Stats1:Sigma_RBV", "CAM:Stats1:Histogram_RBV", "CAM:image1:ArrayData",
)  # fmt: skip


def main(prefix: str) -> None:
    """Subscribe to everything twice, say so when updates come, and stay."""
    seen = []
    subscriptions = []

    def note(*_) -> None:  # caproto keeps weak references only, so this needs a name
        seen.append(1)

    for pv in Context().get_pvs(*(f"{prefix}{name}" for name in NAMES), timeout=20):
        pv.wait_for_connection(timeout=20)
        for data_type in ("time", "native"):
            subscription = pv.subscribe(data_type=data_type)
            subscription.add_callback(note)
            subscriptions.append(subscription)
    while len(seen) < 3 * len(NAMES):
        time.sleep(0.01)
    sys.stdout.write("monitoring\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
