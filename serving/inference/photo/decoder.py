"""`python -m serving.inference.photo.decoder FD`: decodes the photos that come over a socket; started by pool.py."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from pathlib import Path

import pillow_heif
from PIL import AvifImagePlugin

from serving.inference.photo import header, protocol
from serving.inference.photo.decode import decode_here
from serving.inference.photo.errors import PhotoError, PhotoTooCostly
from serving.inference.photo.header import MIB

NICENESS = 5  # what waits for these processes is costly anyway; the photos that are not go first
SLACK = 32 * MIB  # of address space, beside what a photo needs


def main() -> None:
    """Serve until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.options.DECODE_THREADS = 1
    line = socket.socket(fileno=int(sys.argv[1]))
    orders = line.makefile("rb")
    while True:
        try:
            order, data = protocol.receive_order(orders)
            protocol.send_answer(line, _decode(order, data))
        except ConnectionError:
            return


def _decode(order: protocol.Order, data: bytes) -> bytes | PhotoError:
    _limit(order)
    try:
        return decode_here(data, order.size, header.read(data, max_pixels=order.max_pixels)).tobytes()
    except PhotoError as error:
        return error
    except MemoryError:
        return PhotoTooCostly("decoding takes more memory than the photo's declared size needs")


def _limit(order: protocol.Order) -> None:
    """Let this process have what the photo may take, beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + order.memory + SLACK
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + order.cpu_seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
