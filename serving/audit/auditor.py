"""A random share of the photos called clean is marked for people to judge and, where there is a store, kept for them.

Only judgements of such photos tell whether the precision of clean keeps its promise: `python -m tools.audit_promise`.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from serving.audit.bucket import KeptBucket
from serving.audit.kept import Kept, KeptFolder
from serving.engine.budget import Budget
from serving.process import metrics
from serving.settings import Settings, SettingsError
from serving.stores import STORES

log = logging.getLogger(__name__)

WAITING_BYTES = 64 * 1024 * 1024  # of photos that wait for the disk; more are marked, but not kept
HOUR = 3600.0

_random = random.SystemRandom()  # processes that fork share the state of any other


class AuditStore(Protocol):
    """Where photos are kept; methods raise OSError or ReadError."""

    def put(self, name: str, photo: bytes) -> None: ...
    def names(self) -> Iterator[str]: ...
    def get(self, name: str) -> bytes: ...
    def expire(self, days: int) -> int: ...


def start_auditor(settings: Settings, *, patient: bool = False) -> Auditor | None:
    """The auditor that the settings ask for. Call it after the server has forked. Raises UserError."""
    if not settings.audit_share:
        return None
    store = None if settings.audit_dir is None else open_store(settings.audit_dir)
    return Auditor(settings.audit_share, store, settings.audit_days, patient=patient)


def open_store(place: str) -> AuditStore:
    """The store at a place. Raises SettingsError for no writable folder, UserError for a package that is missing."""
    if place.startswith(STORES):
        return KeptBucket(place)
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK) or not os.path.isdir(place):
        raise SettingsError(f"AUDIT_DIR={place} is not a folder that this process can write to; make it, or mount it")
    return KeptFolder(Path(place))


class Auditor:
    """Draws photos, and keeps them from a thread of its own: neither a slow nor a full disk touches a verdict.

    A `patient` one waits for a slow disk instead of losing photos, for programs in which nobody waits for a verdict.
    """

    def __init__(self, share: float, store: AuditStore | None, days: int, *, patient: bool = False) -> None:
        self._share, self._store, self._days, self._patient = share, store, days, patient
        self._room = Budget(WAITING_BYTES)
        self._queue: queue.SimpleQueue[tuple[Kept, bytes]] = queue.SimpleQueue()
        if store is not None:
            threading.Thread(target=self._work, args=(store,), name="audit", daemon=True).start()
            atexit.register(self.flush)  # a worker of the service ends without

    def mark(self, photo: bytes, p_clean: float, model: str) -> bool:
        """Whether this photo, called clean, is one to judge; if it is, have it kept."""
        if _random.random() >= self._share:
            return False
        metrics.AUDIT.labels("marked").inc()
        if self._store is not None:
            if self._take(len(photo)):
                now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
                self._queue.put((Kept(now, hashlib.sha256(photo).hexdigest()[:16], p_clean, self._share, model), photo))
            else:
                metrics.AUDIT.labels("dropped").inc()
        return True

    def _take(self, size: int) -> bool:
        if self._room.take(size):
            return True
        self._patient = self._patient and self.flush()  # whoever has waited in vain waits no more
        return self._patient and self._room.take(size)

    def flush(self, seconds: float = 60.0) -> bool:
        """Wait until what was marked is kept, for so long at most. Returns whether it is."""
        deadline = time.monotonic() + seconds
        while (waiting := self._room.free < WAITING_BYTES) and time.monotonic() < deadline:
            time.sleep(0.01)
        if waiting:
            log.error("AUDIT_DIR is too slow: not all photos to judge are kept")
        return not waiting

    def _work(self, store: AuditStore) -> None:
        expired = float("-inf")
        while True:
            if time.monotonic() - expired > HOUR:
                expired = time.monotonic()
                self._expire(store)
            try:
                kept, photo = self._queue.get(timeout=HOUR)
            except queue.Empty:
                continue
            try:
                store.put(kept.name, photo)
                metrics.AUDIT.labels("kept").inc()
            except Exception as error:  # full, gone, refused by a remote store: the verdict was given long ago
                metrics.AUDIT.labels("failed").inc()
                log.error("a photo to judge could not be kept in AUDIT_DIR: %s", error)
            finally:
                self._room.give(len(photo))

    def _expire(self, store: AuditStore) -> None:
        try:
            if deleted := store.expire(self._days):
                log.info("deleted %d photos in AUDIT_DIR that are older than %d days", deleted, self._days)
        except Exception as error:  # as above
            log.error("photos in AUDIT_DIR older than %d days could not be deleted: %s", self._days, error)
