"""The Dockerfile without docker: its own steps, in a folder in place of an image, as a user without rights."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serving.settings import Settings
from tests.support.live import ROOT, photo, running
from tests.support.onnx_models import write_pair

UID = 10001


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined and comments left out."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def copies() -> list[tuple[list[str], str]]:
    """What is copied from the repository, and to where."""
    words = [shlex.split(rest) for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    return [(sources, target) for *sources, target in words]


def one(name: str) -> str:
    """The last instruction of a name."""
    return [rest for found, rest in instructions() if found == name][-1]


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    outs = [out if isinstance(out, str) else next(iter(out)) for stage in stages for out in stage["outs"]]
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    for source in (source for sources, _ in copies() for source in sources):
        path = source.rstrip("/")
        assert list(ROOT.glob(path)) or fnmatch.filter(outs, path), path
        assert not ignored(path, rules), f"{path} does not reach the build"


def ignored(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore leaves a path out: the last rule that matches it, or a folder it is in, decides."""
    places = [path, *map(str, Path(path).parents)]
    matching = [rule for rule in rules if any(fnmatch.fnmatch(place, rule.removeprefix("!")) for place in places)]
    return not matching[-1].startswith("!")


def test_it_is_pinned_and_runs_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert sum(name == "FROM" for name, _ in instructions()) == 2
    *_, last = (place for place, (name, _) in enumerate(instructions()) if name == "FROM")
    served = instructions()[last:]
    assert [rest for name, rest in served if name == "USER"] == [str(UID)]  # a number: Kubernetes' runAsNonRoot asks
    assert "/readyz" in one("HEALTHCHECK") and "REQUIRE_CERTIFIED=1" in one("ENV")
    for line in (ROOT / "serving" / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or re.match(r"[a-z0-9-]+==\S+", line), line
    for absent in ("torch", "timm", "dvc"):
        assert not re.search(rf"^{absent}", (ROOT / "serving" / "requirements.txt").read_text(), re.MULTILINE)


def test_compose_runs_it_without_rights_on_a_gpu_with_every_setting_and_a_proxy() -> None:
    """Settings come from .env; what compose sets itself is what the container is built around."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    service, proxy = services["dirtycar"], services["proxy"]
    device = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert service["volumes"] == ["./artifacts:/app/artifacts:ro"]
    assert service["read_only"] and service["tmpfs"] == ["/tmp"]
    assert service["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}
    assert service["env_file"] == [{"path": ".env", "required": False}]
    ours = {"HOST": "0.0.0.0", "PORT": 8000, "HEALTH_PORT": 8001}
    assert service["environment"] == ours | {"REQUIRE_CERTIFIED": "${REQUIRE_CERTIFIED:-1}"}
    assert {name.lower() for name in service["environment"]} <= set(Settings.model_fields)
    assert re.fullmatch(r"caddy:\d+\.\d+\.\d+-alpine", proxy["image"]) and proxy["profiles"] == ["tls"]
    source, target, *_ = proxy["volumes"][0].split(":")
    caddyfile = (ROOT / source).read_text()
    assert target == "/etc/caddy/Caddyfile" and "reverse_proxy dirtycar:8000" in caddyfile


@pytest.fixture
def image() -> Iterator[Path]:
    """An empty folder in place of the image, that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="dirtycar-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def base_python() -> tuple[str, int | None]:
    """An interpreter for the image, and the user to run it as: one without rights, where it can be had."""
    if os.geteuid() != 0:
        return sys.executable, None
    probe = "import sys, ensurepip; assert sys.version_info >= (3, 11)"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", probe], user=UID, group=UID, extra_groups=[], cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):  # this one is out of the user's reach, or too old
            continue
        return python, UID
    return sys.executable, None


@pytest.mark.slow
def test_its_steps_give_a_service(image: Path, tmp_path: Path) -> None:
    python, user = base_python()
    build, venv, app = image / "build", image / "opt" / "venv", image / "app"
    build.mkdir()
    app.mkdir()
    for sources, target in copies():
        for source in sources:
            if source.endswith("/"):
                shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
            elif target == "/build/":
                for file in ROOT.glob(source):
                    shutil.copy(file, build)
    for name, command in instructions():
        if name == "RUN":
            command = command.replace("/opt/venv", str(venv)).replace("python -m venv", f"{python} -m venv")
            subprocess.run(
                command, shell=True, cwd=build, env=os.environ | {"DEVICE": "cpu"}, check=True, capture_output=True
            )
    pair = write_pair(app / "artifacts")
    environment = dict(
        part.split("=", 1)
        for part in shlex.split(one("ENV"))
        if not part.startswith(("PATH", "PORT", "HEALTH_PORT", "GIT_COMMIT"))
    )
    command = [str(venv / "bin" / "python"), "-m", *yaml.safe_load(one("CMD"))]
    with running(pair, tmp_path, cwd=app, command=command, user=user, **environment | {"HOST": "127.0.0.1"}) as live:
        assert live.send(photo(255)).json()["label"] == "clean"
    installed = subprocess.run(
        [venv / "bin" / "pip", "list"], capture_output=True, text=True, check=True
    ).stdout.lower()
    assert not re.search(r"^(torch|torchvision|timm|dvc|onnx)\s", installed, re.MULTILINE)
