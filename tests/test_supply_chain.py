"""What is known against our dependencies is explained, or mended."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_vulnerability_that_may_pass_is_explained() -> None:
    lines = (ROOT / "audit-ignore.txt").read_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        assert re.fullmatch(r"(CVE|GHSA|PYSEC|OSV)-\S+  # \S.{20,}", line), line


def test_every_dependency_is_pinned_for_the_audit() -> None:
    """`make audit-deps` looks at constraints.txt: nothing may be installed that does not stand there."""
    pinned = set(names(ROOT / "constraints.txt"))
    files = [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements*.txt")]
    assert len(files) >= 3
    for file in files:
        assert set(names(file)) <= pinned, file


def names(path: Path) -> list[str]:
    """The distributions that a requirements file pins exactly, in one spelling."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    wanted = [line for line in lines if line and not line.startswith("-r ")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z]+\])?==[A-Za-z0-9.+!]+", line) for line in wanted), path
    return [re.sub(r"[-_.]+", "-", re.split(r"\[|==", line)[0]).lower() for line in wanted]
