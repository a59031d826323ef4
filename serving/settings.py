"""What the environment sets. Every variable is a field here, in capitals; `serving/env.example` lists them all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from serving.fetch.policy import host_name, host_pattern
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.header import MAX_PIXELS, MIB
from serving.inference.verdict.errors import UserError
from serving.inference.verdict.rule import Limits, Rule, Threshold, ThresholdError
from serving.process import cards

MEMORY_PER_CORE = 768 * MIB
CORES_PER_WORKER = 4  # past about four cores, the GIL limits a process rather than the model

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _split(value: object) -> object:
    return [part.strip().lower() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _workers() -> int:
    """One per CORES_PER_WORKER cores, and at least one per GPU, as far as there are cores."""
    gpus, cores = len(cards.visible()), usable_cores()
    return max(min(gpus, cores), -(-cores // CORES_PER_WORKER))


def _bearer(token: str) -> str:
    """A token that arrives as it was sent: what is not ASCII is read as Latin-1, = within as the end of a name."""
    if not re.fullmatch("[!-<>-~]+=*", token):
        raise ValueError("use ASCII letters, digits and signs, without spaces, and = at the end only")
    return token


Token = Annotated[str, Field(min_length=8), AfterValidator(_bearer)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]
Ports = Annotated[frozenset[Port], BeforeValidator(_split)]
HostPatterns = Annotated[frozenset[Annotated[str, AfterValidator(host_pattern)]], BeforeValidator(_split)]
HostNames = Annotated[frozenset[Annotated[str, AfterValidator(host_name)]], BeforeValidator(_split)]


class SettingsError(UserError):
    """An environment variable has a value that cannot be used; the message names it."""


class Settings(BaseModel):
    """The service's settings, checked. Sizes in bytes, times in seconds; limits are per request unless said."""

    model_config = ConfigDict(frozen=True)

    model_path: Path = Path("artifacts/best.onnx")
    threshold_path: Path | None = None
    verify_key: Path | None = None
    imgsz: PositiveInt | None = None
    require_certified: bool = False
    require_gpu: bool = False
    git_commit: str | None = None

    refuse: bool = True
    min_views: int = Field(1, ge=1, le=8)
    thresh: Probability | None = None
    t_low: Probability | None = None
    t_high: Probability | None = None

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: PositiveInt = Field(default_factory=_workers)
    threads: PositiveInt = Field(default_factory=lambda data: max(1, usable_cores() // data.get("workers", 1)))
    max_batch: PositiveInt | None = None
    queue: PositiveInt = 256
    health_port: Port | None = None
    drain_seconds: PositiveInt = 30
    request_seconds: PositiveFloat = 30
    connections: PositiveInt = 2048
    connections_per_address: PositiveInt = 1024
    stuck_seconds: PositiveFloat = 60
    api_token: Token | None = Field(None, repr=False)
    status_token: Token | None = Field(None, repr=False)
    trusted_proxies: int = Field(0, ge=0, le=10)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    max_bytes: PositiveInt = 25 * MIB
    max_request_bytes: PositiveInt = 100 * MIB
    max_memory: PositiveInt = Field(default_factory=lambda data: MEMORY_PER_CORE * max(2, data.get("threads", 1)))
    max_bytes_in_flight: PositiveInt = Field(default_factory=lambda data: data.get("max_memory", 0) // 6)
    max_pixels: PositiveInt = MAX_PIXELS
    max_photos: PositiveInt = 32

    explain: bool = True
    audit_share: Probability = 0
    audit_dir: str | None = None
    audit_days: PositiveInt = 90

    url_fetch: bool = True
    url_seconds: PositiveFloat = 10
    url_max_bytes: PositiveInt = 25 * MIB
    url_max_redirects: int = Field(3, ge=0, le=10)
    url_concurrency: PositiveInt = 16
    url_ports: Ports = frozenset({80, 443})
    url_allow_hosts: HostPatterns = frozenset()
    url_deny_hosts: HostNames = frozenset()
    url_allow_networks: Networks = ()
    url_deny_networks: Networks = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        cores, low, high = usable_cores(), self.t_low or 0, 1 if self.t_high is None else self.t_high
        needs = {
            f"WORKERS x THREADS <= the {cores} cores usable here": self.workers * self.threads <= cores,
            "HEALTH_PORT other than PORT, as probes need one of their own": self.health_port != self.port,
            "MAX_PHOTOS <= QUEUE": self.max_photos <= self.queue,
            "MAX_BYTES <= MAX_REQUEST_BYTES <= MAX_BYTES_IN_FLIGHT": self.max_bytes
            <= self.max_request_bytes
            <= self.max_bytes_in_flight,
            "REQUEST_SECONDS <= STUCK_SECONDS": self.request_seconds <= self.stuck_seconds,
            "AUDIT_SHARE above 0 where AUDIT_DIR is set": self.audit_share > 0 or self.audit_dir is None,
            "THRESH or T_HIGH, not both: each replaces T_clean": None in (self.thresh, self.t_high),
            "0 <= T_LOW <= T_HIGH <= 1": low <= high,
        }
        for need, met in needs.items():
            if not met:
                given = [name for name in type(self).model_fields if re.search(rf"\b{name.upper()}\b", need)]
                values = ", ".join(f"{name.upper()}={getattr(self, name)}" for name in given)
                raise ValueError(f"need {need}; got {values}")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; an empty value counts as not set. Raises SettingsError, which names the variable."""
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            # A default that waits for another, wrong value is no second mistake.
            problems = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
            raise SettingsError("; ".join(_sentence(problem) for problem in problems)) from None

    @property
    def decode_memory(self) -> int:
        """Bytes for the photos that decoders have at a time: half of the whole. Bodies are held up to twice and take a
        third, which leaves a sixth for the process and its model (CUDA apart)."""
        return self.max_memory // 2

    @property
    def override(self) -> dict[str, float]:
        """The thresholds that the environment replaces, by variable; empty when the model's own decide."""
        given = {"THRESH": self.thresh, "T_LOW": self.t_low, "T_HIGH": self.t_high}
        return {name: value for name, value in given.items() if value is not None}

    def rule(self, threshold: Threshold) -> Rule:
        """The rule in force: the model's, with what the environment replaces. Raises ThresholdError."""
        high = self.t_high if self.thresh is None else self.thresh
        t_clean = threshold.rule.t_clean if high is None else high
        t_low = threshold.rule.t_low if self.t_low is None else self.t_low
        try:
            return Rule(t_clean, t_low, threshold.rule.limits if self.refuse else Limits())
        except ThresholdError as error:
            raise ThresholdError(f"{error} (with {self.override} from the environment)") from None


def _sentence(problem: Mapping[str, object]) -> str:
    """One pydantic error as words that name the variable, without its value where that is a secret."""
    location = problem["loc"]
    name = str(location[0]).upper() if isinstance(location, tuple) and location else None
    message = str(problem["msg"]).removeprefix("Value error, ")
    if name is None:
        return message
    value = "" if name.endswith("_TOKEN") else f"={problem['input']!r}"
    return f"{name}{value}: {message}"
