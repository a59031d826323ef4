"""A workspace whose stages run in this process, which saves the seconds that a new one takes to import its modules."""

from __future__ import annotations

import importlib
import importlib.util
import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from stages.common.base.errors import run_stage
from tests.support.workspace import Workspace


class InProcess(Workspace):
    """As `Workspace`; for stages that neither start processes nor change this one's settings."""

    def run(self, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if environment or stage not in ("split_check", "backbone", "threshold"):
            return super().run(stage, **environment)
        main = importlib.import_module(f"stages.{stage}.__main__").main
        out, err, code = io.StringIO(), io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                run_stage(stage, main)
            except SystemExit as stop:
                code = int(str(stop.code))
        return subprocess.CompletedProcess(stage, code, out.getvalue(), err.getvalue())
