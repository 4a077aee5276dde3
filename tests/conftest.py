from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.pipeline import Pipeline, load

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project: runs of its configs leave their folders in it."""
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.fixture
def pipeline(project: Path) -> Callable[..., Pipeline]:
    """Loads a config from its steps' text (indented by two); `stocks` is a read of the shipped prices."""

    def make(steps: str, **params: Any) -> Pipeline:
        config = project / "config.yaml"
        stocks = f'  stocks:\n    read: {{path: "{ROOT}/data/stocks/*.csv", partitions: 5}}\n'
        config.write_text("name: test\nparams: {p: 1}\nsteps:\n" + steps.replace("  STOCKS\n", stocks))
        return load(config, params)

    return make
