"""What the pipeline and the service withstand: `python -m benchmarks.faults [--quick] [--only SCENARIO …]`.

Every fault is injected many times, at moments and in ways that the seed decides, against real processes: gunicorn on a
port of this machine, training runs in a temporary folder. The exit code is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

from benchmarks import fault_service, fault_training
from benchmarks.fault_row import HEAD, Row

TRIALS, QUICK_TRIALS = 20, 1


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each fault, in seconds")
    scenarios = [scenario.__name__ for scenario in fault_service.SCENARIOS]
    parser.add_argument(
        "--only", nargs="+", choices=("service", "training", *scenarios), default=("service", "training")
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # A shell makes what it starts in the background deaf to Ctrl-C, and so all that this starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows: list[Row] = []
    started = time.monotonic()
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="dirtycar-faults-") as folder:
        names = scenarios if "service" in arguments.only else arguments.only
        halves = [fault_service.run(Path(folder), names, quick=arguments.quick, seed=arguments.seed)]
        if "training" in arguments.only:
            halves.append(fault_training.run(QUICK_TRIALS if arguments.quick else TRIALS, arguments.seed))
        for found in chain(*halves):
            rows += found
            print("\n".join(row.line() for row in found), flush=True)  # at once, for a later one may fail
    print(f"\nseed {arguments.seed}; {sum(row.injected for row in rows):,} faults injected, "
          f"{sum(row.recovered for row in rows):,} recovered from, {sum(row.lost for row in rows):,} losses; "
          f"{(time.monotonic() - started) / 60:.1f} minutes")  # fmt: skip
    return 0 if all(row.fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
