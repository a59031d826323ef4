"""gunicorn's worker: a process that loads the application, and answers in threads behind an event loop.

gunicorn imports this before it forks, so nothing here may import ONNX Runtime, whose threads do not outlive a fork.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time

from gunicorn.workers.base import Worker as BaseWorker  # type: ignore[import-untyped]

# By itself glibc keeps freed blocks of up to 32 MiB in a heap for each of several threads: after some thousand hostile
# photos, two workers held on to 740 MiB instead of 200. Other C libraries have no such function, nor such heaps.
TRIM_SECONDS = 10.0
_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)


class Worker(BaseWorker):  # type: ignore[misc]
    """A process of the service."""

    def load_wsgi(self) -> None:
        """Load the application. The very first worker that cannot do it ends the start, with the reason.

        Any other ends by itself and is tried again: gunicorn would stop all workers, those that serve too.
        """
        try:
            super().load_wsgi()
        except Exception as error:
            if self.age == 1:
                raise
            self.log.exception("the worker cannot start and is tried again: %s", error)
            time.sleep(1)
            sys.exit(1)

    def run(self) -> None:
        """Serve until SIGTERM; then answer what is under way, for DRAIN_SECONDS at most."""
        from serving.front.start import start

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection takes one, or two with a file to send
        sys.setswitchinterval(0.001)  # a fifth of the default: the loop must not wait long for threads that compute
        front = start(self.cfg, self.wsgi, self.sockets, lambda: self.alive)
        trimmed = time.monotonic()
        while self.alive and self.ppid == os.getppid():
            self.notify()
            front.step()
            if time.monotonic() - trimmed > TRIM_SECONDS:
                _trim(0)  # give back what large photos took; some milliseconds
                trimmed = time.monotonic()
        front.stop()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while not front.done and time.monotonic() < deadline:
            self.notify()
            front.step()
        front.close()
        self.log.info("Worker exiting (pid: %s)", self.pid)
        os._exit(0)  # at once: a thread in a model call while the interpreter takes the library down aborts the process
