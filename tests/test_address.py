"""A scheduler that runs already, in processes of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client

from pipelines import ConfigError, MachineError
from pipelines.passes import Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute

Make = Callable[..., Pipeline]
STEPS = "  STOCKS\n  it:\n    aggregate: {by: Symbol, n: count(*), close: avg(Close), m: median(Close)}\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        found,
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        found,
        "--nworkers",
        "2",
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": None}
    running = [subprocess.Popen(each, **options) for each in (command, worker)]  # type: ignore[call-overload]
    try:
        with Client(found, timeout="30s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield found
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)


def test_exchanges_where_processes_share_no_disk(pipeline: Make, address: str, project: Path) -> None:
    """What each reader takes of each writer travels by itself, in a hash exchange and in a range exchange."""
    steps = (
        "  STOCKS\n  means: {aggregate: {by: [Symbol, Date], m: median(Close)}}\n"
        "  both: {from: [stocks, means], join: {on: [Symbol, Date], how: full, broadcast: false}}\n"
        "  it: {sort: {by: [Close, Date], descending: [Close]}}\n  out: {write: it.parquet}\n"
    )
    layout = Layout(partitions=3)
    execute(pipeline(steps).plan(), address, layout=layout)
    (project / "it.parquet").rename(project / "there.parquet")
    execute(pipeline(steps).plan(), "serial", layout=layout)
    assert (project / "it.parquet").read_bytes() == (project / "there.parquet").read_bytes()
    assert not (project / "runs" / ".exchanges").exists()


def test_the_same_answer_and_nothing_left_behind(pipeline: Make, address: str, project: Path) -> None:
    (project / "mine.py").write_text("def f(x: int) -> int:\n    return x * x\n")
    steps = (
        STEPS
        + "  squares:\n    map: {function: mine:f, items: [1, 2, 3]}\n  out:\n    from: it\n    write: it.parquet\n"
    )
    said = list[str]()
    there = pipeline(steps).run(address, say=said.append)
    (project / "it.parquet").rename(project / "there.parquet")
    here = pipeline(steps).run("serial")
    assert there.outputs["squares"].head.equals(here.outputs["squares"].head)
    assert (project / "it.parquet").read_bytes() == (project / "there.parquet").read_bytes()
    assert any(line.startswith("dashboard: http://") for line in said)
    assert f"running test on the cluster at {address} (2 workers, 2 threads)" in said
    with Client(address, set_as_default=False) as client:
        plugins = client.run(lambda dask_worker: [name for name in dask_worker.plugins if "pipelines" in name])
        assert list(plugins.values()) == [[], []]
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0


def test_from_the_config(pipeline: Make, address: str, project: Path) -> None:
    made = pipeline(STEPS)
    text = (project / "config.yaml").read_text()
    for block in (f"executor: {address}\n", f"executor: {{kind: address, address: '{address}'}}\n"):
        (project / "config.yaml").write_text(block + text)
        assert type(made).__name__ == "Pipeline"
        from pipelines import load

        assert load(project / "config.yaml").run().outputs["it"].rows == 7
    (project / "config.yaml").write_text("executor: address\n" + text)
    with pytest.raises(ConfigError, match="no address is given"):
        load(project / "config.yaml")


def test_other_versions_are_refused(pipeline: Make, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "polars" else real(name))
    with pytest.raises(MachineError) as caught:
        pipeline(STEPS).run(address)
    assert f"the scheduler and 2 more has polars {real('polars')}, this process 9.9" in str(caught.value)
    assert "install polars 9.9 there" in str(caught.value)


def test_nobody_there(pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.executors import address

    monkeypatch.setattr(address, "_SECONDS", 1)
    with pytest.raises(MachineError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        pipeline(STEPS).run("tcp://127.0.0.1:9")
    with pytest.raises(MachineError, match="no scheduler answers at strange://x"):
        pipeline(STEPS).run("strange://x")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(8)])
def test_what_answers_is_no_scheduler(pipeline: Make, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    """As a dashboard's port, or a proxy whose other side is not there: Dask's client would wait without end."""
    from pipelines.executors import address

    monkeypatch.setattr(address, "_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            taken, _ = server.accept()
            with taken, suppress(ConnectionError):
                taken.sendall(says)
                taken.recv(1)  # until it is closed there

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(MachineError, match="what answers there is no Dask scheduler"):
            pipeline(STEPS).run("tcp://{}:{}".format(*server.getsockname()))
        answering.join(10)
        assert not answering.is_alive()


def test_a_folder_that_workers_do_not_see(pipeline: Make, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.executors.address import Address

    real = Address.reaches
    monkeypatch.setattr(Address, "reaches", lambda self, folder: real(self, Path("/nowhere") / folder.name))
    with pytest.raises(MachineError, match="does not see /nowhere"):
        pipeline(STEPS).run(address)
