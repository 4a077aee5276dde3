"""The shipped examples: exact answers on every executor."""

from __future__ import annotations

import functools
import http.server
import io
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from examples import pictures, web
from pipelines.pipeline import Pipeline, load
from pipelines.race import RACED
from pipelines.run import Result
from tests.conftest import ROOT

RUN = RACED
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
Seed = Callable[..., Pipeline]


@pytest.fixture
def seed(project: Path) -> Seed:
    """A shipped config as it is, in a project of the test's own."""

    def made(name: str, **params: Any) -> Pipeline:
        for folder in ("examples", "data"):
            if not (project / folder).exists():
                (project / folder).symlink_to(ROOT / folder)
        config = project / f"{name}.yaml"
        config.write_text((ROOT / "configs" / f"{name}.yaml").read_text())
        return load(config, params)

    return made


def written(result: Result, step: str = "result") -> pl.DataFrame:
    path = result.outputs[step].path
    assert path is not None
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_checks(name: str) -> None:
    assert load(ROOT / "configs" / f"{name}.yaml").plan().nodes


@pytest.mark.parametrize("executor", RUN)
def test_factorials(seed: Seed, executor: str) -> None:
    result = seed("factorials").run(executor)
    small = result.outputs["small"].head
    assert small["value"].to_list() == ["3628800", "479001600", "87178291200"]
    assert small["digits"].to_list() == [7, 9, 11]
    large = written(result)
    numbers = range(15, 1015)
    assert large["item"].to_list() == list(numbers)
    assert large["value"].to_list() == [str(math.factorial(n)) for n in numbers]
    assert large["digits"].to_list() == [len(str(math.factorial(n))) for n in numbers]
    assert large["error"].null_count() == 1000


@pytest.mark.parametrize("executor", RUN)
def test_squares(seed: Seed, executor: str) -> None:
    result = seed("squares").run(executor)
    assert written(result)["result"].to_list() == [n * n for n in range(1, 1001)]
    assert result.outputs["total"].head.rows() == [(1000, 1000 * 1001 * 2001 // 6, 0)]


@pytest.mark.parametrize("executor", RUN)
def test_cubes(seed: Seed, executor: str) -> None:
    cubes = written(seed("cubes").run(executor))
    assert cubes["result"].to_list() == [-27, 0, 1, 8, 27, 1000, 8 * 10**18, None]
    assert cubes["error"].to_list()[:-1] == [None] * 7
    assert cubes["error"][-1] == "TypeError: result is 27000000000000000000, which is not int64"


@pytest.mark.parametrize("executor", RUN)
def test_sleepers(seed: Seed, executor: str) -> None:
    sleepers = written(seed("sleepers", seconds=0.05).run(executor))
    assert sleepers["result"].to_list() == [f"sleeper {n} slept 0.05 s" for n in range(1, 9)]


@pytest.mark.parametrize("executor", [name for name in RUN if name != "serial"])
def test_eight_sleepers_sleep_at_the_same_time(seed: Seed, project: Path, executor: str) -> None:
    """Each waits until all eight have begun: none would end if one had to wait for another's thread."""
    (project / "meeting_of_test.py").write_text(
        "import os, pathlib, time\ndef nap(number: int, seconds: float, folder: str) -> str:\n"
        "    pathlib.Path(folder, str(number)).touch()\n    end = time.monotonic() + 60\n"
        "    while len(os.listdir(folder)) < 8:\n        assert time.monotonic() < end\n        time.sleep(0.01)\n    return 'met'\n"
    )
    meeting = project / "meeting"
    meeting.mkdir()
    seed("sleepers")
    config = project / "sleepers.yaml"
    text = config.read_text().replace("examples.waiting:nap", "meeting_of_test:nap")
    config.write_text(text.replace('seconds: "${seconds}"', f'seconds: "${{seconds}}", folder: {meeting}'))
    assert written(load(config).run(executor))["result"].to_list() == ["met"] * 8


@pytest.mark.parametrize("executor", RUN)
def test_thumbnails(seed: Seed, executor: str) -> None:
    result = seed("thumbnails").run(executor)
    table = written(result)
    assert table["error"].null_count() == 8
    for row in table.iter_rows(named=True):
        assert row["after"] == len(row["jpeg"]) < row["before"] / 100
        with Image.open(io.BytesIO(row["jpeg"])) as picture:
            assert (picture.format, *picture.size) == ("JPEG", 256, 192) == ("JPEG", row["width"], row["height"])
    assert table["jpeg"].n_unique() == 8
    assert table.row(2, named=True) == {"item": 3, "error": None} | pictures.thumbnail(3, 256, 80)
    assert result.outputs["sizes"].head.rows() == [(8, 0, table["before"].sum(), table["after"].sum())]


def test_thumbnails_of_ones_own_pictures(seed: Seed, project: Path) -> None:
    (project / "photos").mkdir()
    for number in (1, 2):
        (project / f"photos/{number}.png").write_bytes(pictures.draw(number))
    (project / "photos/3.png").write_text("no picture")
    seed("thumbnails")
    config = project / "thumbnails.yaml"
    text = config.read_text().replace("pictures:thumbnail", "pictures:shrink")
    config.write_text(text.replace('range: [1, "${pictures}"]', "files: photos/*.png"))
    table = written(load(config).run("threads"))
    assert table["item"].to_list() == [str(project / f"photos/{n}.png") for n in (1, 2, 3)]
    assert table["width"].to_list() == [256, 256, None]
    assert table["error"][2].startswith("UnidentifiedImageError: cannot identify image file")


@pytest.fixture
def served() -> Iterator[str]:
    """The address of a server that gives out `data/`; what is below /slow/ comes late."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow/"):
                stopped.wait(20)
                return
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    stopped = threading.Event()
    handler = functools.partial(Handler, directory=str(ROOT / "data"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        stopped.set()
        server.shutdown()


@pytest.mark.parametrize("executor", RUN)
def test_downloads_that_fail_do_not_lose_the_others(seed: Seed, served: str, executor: str) -> None:
    with socket.socket() as nobody:  # bound, but it does not listen: connections are refused
        nobody.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
        paths = ["stocks/FB.csv", refused, "slow/x", "stocks/NONE.csv", "nonsense:", "stocks/TSLA.csv"]
        pages = written(seed("downloads", base=served, paths=paths, timeout=0.5).run(executor))
    assert pages["item"].to_list() == paths
    contents = [(ROOT / "data/stocks" / name).read_bytes() for name in ("FB.csv", "TSLA.csv")]
    assert pages["content"].to_list() == [contents[0], None, None, None, None, contents[1]]
    assert pages["bytes"].to_list() == [len(contents[0]), None, None, None, None, len(contents[1])]
    assert pages["status"].to_list() == [200, None, None, None, None, 200]
    errors = pages["error"].to_list()
    assert errors[0] is None is errors[5]
    assert errors[1].startswith(f"ConnectionError: {refused}: ")
    assert "refused" in errors[1]
    assert errors[2] == "ConnectionError: slow/x: no answer within 0.5 s"
    assert errors[3] == "ConnectionError: stocks/NONE.csv: 404 File not found"
    assert errors[4].startswith("ConnectionError: nonsense:")


def test_downloads_as_shipped_need_no_network(seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")  # a proxy cannot see this machine
    began = time.monotonic()
    pages = written(seed("downloads").run())
    assert pages["status"].to_list() == [200] * 7 + [None]
    assert pages["bytes"].to_list()[:7] == [(ROOT / "data" / path).stat().st_size for path in pages["item"][:7]]
    assert pages["error"].to_list() == [None] * 7 + ["ConnectionError: stocks/NONE.csv: 404 File not found"]
    assert time.monotonic() - began < 8 * web.DELAY  # together, not one after another
