"""Releases of a small repository: published to its own remote, tagged by GTO's convention, to be had from a clone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.inference.verdict.errors import UserError
from tests.support.repository import do, environment
from tools import release

DVC_YAML = """
stages:
  export:
    cmd: python export.py
    deps: [export.py]
    outs:
      - artifacts/best.onnx: {remote: samples}
      - artifacts/threshold.json: {remote: samples}
      - reports/threshold.json: {cache: false}
artifacts:
  dirty-car: {path: samples/dirty-car.onnx, type: model}
"""
EXPORT = """
import json, pathlib
pathlib.Path("artifacts/best.onnx").write_text("MODEL")
for folder in ("artifacts", "reports"):
    pathlib.Path(folder, "threshold.json").write_text(json.dumps({"certified": CERTIFIED}))
"""


class Repository:
    """A repository whose model is made by one stage, as certified or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("artifacts", "reports", "samples"):
            (root / name).mkdir(parents=True)
        (root / "dvc.yaml").write_text(DVC_YAML)
        (root / ".gitignore").write_text("/artifacts\n/samples/remote\n")
        self.do("git init -q -b main", "dvc init -q", "dvc remote add -q samples samples/remote")

    def do(self, *commands: str) -> str:
        """Run commands; what the last one printed."""
        return do(self.root, *commands)

    def make(self, model: str, *, certified: bool) -> None:
        """Another model, committed."""
        (self.root / "export.py").write_text(EXPORT.replace("MODEL", model).replace("CERTIFIED", str(certified)))
        self.do("dvc repro -q", "git add -A", f"git commit -qm {model}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """Its first model is released."""
    folder = tmp_path_factory.mktemp("release")
    with environment(folder):
        made = Repository(folder / "repository")
        made.make("first", certified=True)
        assert release.release(made.root, "1.2.0") == "dirty-car@v1.2.0"
        yield made


def test_a_clone_has_the_released_model_and_nothing_else(repository: Repository, tmp_path: Path) -> None:
    assert repository.do("git status --porcelain") == ""
    assert len(repository.do("git ls-files samples/remote").split()) == 2
    assert repository.do("git cat-file -t dirty-car@v1.2.0") == "tag"
    do(tmp_path, f"git clone -q {repository.root} clone", f"git clone -q --bare {repository.root} bare.git")
    do(tmp_path / "clone", "dvc artifacts get . dirty-car -o ../inside.onnx", f"dvc pull -q {release.MODEL}")
    do(tmp_path, "dvc artifacts get clone dirty-car -o path.onnx")
    do(tmp_path, f"dvc artifacts get {(tmp_path / 'bare.git').as_uri()} dirty-car")
    for name in ("inside.onnx", "path.onnx", "dirty-car.onnx", f"clone/{release.MODEL}"):
        assert (tmp_path / name).read_text() == "first"


def test_a_stage_is_assigned_to_a_certified_version_only(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release.promote(repository.root, "1.2.0", "prod") == "dirty-car#prod#1"
    commits = [repository.do(f"git rev-parse {tag}^{{commit}}") for tag in ("dirty-car#prod#1", "dirty-car@v1.2.0")]
    assert commits[0] == commits[1]
    repository.make("second", certified=False)
    repository.do("git tag -a dirty-car@v1.3.0 -m by_hand")
    with pytest.raises(UserError, match=r"v1\.3\.0 is not certified"):
        release.promote(repository.root, "1.3.0", "prod")
    with pytest.raises(UserError, match=r"v9\.0\.0 is not released"):
        release.promote(repository.root, "9.0.0", "prod")
    with pytest.raises(UserError, match="HEAD is not certified"):
        release.release(repository.root, "1.4.0")
    monkeypatch.chdir(repository.root)
    assert release.main(["1.2.0", "--stage", "Prod!"]) == 1
    assert "STAGE=Prod!" in capsys.readouterr().err
    assert repository.do("git tag").split() == ["dirty-car#prod#1", "dirty-car@v1.2.0", "dirty-car@v1.3.0"]


def test_what_is_not_committed_or_not_current_is_not_released(repository: Repository) -> None:
    repository.make("third", certified=True)
    objects, tags = repository.do("git ls-files samples/remote"), repository.do("git tag")
    with pytest.raises(UserError, match="exists already"):
        release.release(repository.root, "1.2.0")
    for version in ("v1", "1.2", "01.2.3", "1.2.3-rc"):
        with pytest.raises(UserError, match=f"VERSION={version}"):
            release.release(repository.root, version)
    script = repository.root / "export.py"
    script.write_text(script.read_text() + "# changed")
    with pytest.raises(UserError, match=r"not clean.*\n.*export\.py"):
        release.release(repository.root, "2.0.0")
    repository.do("git commit -qam changed")
    with pytest.raises(UserError, match="not current: export"):
        release.release(repository.root, "2.0.0")
    assert (repository.do("git ls-files samples/remote"), repository.do("git tag")) == (objects, tags)
