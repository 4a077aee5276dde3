"""The store on S3: a real server on loopback, which at times is too busy, fails or hangs up."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import MachineError, load, stores
from pipelines.checkpoint import store_of
from tests.test_checkpoints import STEPS, bytes_of, config, data, made, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Server:
    """moto's S3; of its requests it answers every n-th with 503 SlowDown, or with 500."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.every, self.code, self.count, self.refused = 0, 503, 0, 0
        self.lock = threading.Lock()
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.http = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self.lock:
            self.count += 1
            refuse = self.every and self.count % self.every == 0
            self.refused += bool(refuse)
        if not refuse:
            return self.moto(environ, start_response)
        start_response(f"{self.code} Busy", [("Content-Type", "application/xml"), ("Content-Length", str(len(_BUSY)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [_BUSY]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in (("ACCESS_KEY_ID", "mine"), ("SECRET_ACCESS_KEY", "hidden"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = Server()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/moto-api/reset", method="POST")).close()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/bucket", method="PUT")).close()
    yield server
    server.http.shutdown()
    server.http.server_close()


def on_s3(project: Path, server: Server, bucket: str = "bucket", steps: str = STEPS) -> Path:
    options = json.dumps({"endpoint_url": server.url})
    return config(data(project), steps, f"store: {{url: 's3://{bucket}/kept', options: {options}}}\n")


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
def test_a_run_goes_on_from_s3(project: Path, server: Server, executor: str) -> None:
    path = on_s3(project, server)
    first, said = run(path, executor)
    assert "by_k: computed: nothing is stored yet" in said
    again, said = run(path)
    assert bytes_of(again) == bytes_of(first)
    assert "by_k: reused, 1 partition" in said
    assert set(made(again)) == {"out", "groups"}
    assert not (project / "runs/.store").exists()


def test_a_server_that_is_too_busy_is_asked_again(project: Path, server: Server) -> None:
    path = on_s3(project, server)
    for code in (503, 500):
        server.every, server.code = 3, code
        first, _ = run(path, "threads", fresh=True)
        again, said = run(path, "threads")
        assert bytes_of(again) == bytes_of(first)
        assert "by_k: reused, 1 partition" in said
        assert server.refused > 3
        server.refused = 0


def test_damage_on_s3_is_found(project: Path, server: Server) -> None:
    path = on_s3(project, server)
    first, _ = run(path)
    store = store_of(load(path).spec)
    found = stores.contents(store)
    best = [name.file(manifest) for name, manifest in found.partitions.items() if manifest.step == "best"]
    for file in best:
        content = store.read(file)
        assert content is not None
        store.write(file, content[:-1] + b"x")
    again, said = run(path, "threads")
    assert bytes_of(again) == bytes_of(first)
    assert any("is not what was written" in text for text in said)
    for file in best:
        store.remove(file)
    assert bytes_of(run(path)[0]) == bytes_of(first)
    assert stores.collect(store, stores.contents(store), 0.0)[0] == len(found.partitions)
    assert not stores.contents(store).partitions


def test_a_url_with_a_slash_too_many(project: Path, server: Server) -> None:
    path = on_s3(project, server, "bucket//mine/")
    run(path)
    store = store_of(load(path).spec)
    assert stores.contents(store).partitions
    assert "by_k: reused, 1 partition" in run(path)[1]


def test_no_bucket_no_server_no_package(project: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match="the store s3://none/kept"):
        run(path := on_s3(project, server, "none"))
    with pytest.raises(MachineError, match=r"cannot read the store s3://none/kept: .*bucket does not exist"):
        stores.contents(store_of(load(path).spec))  # it is not empty: there is none
    server.every = 1
    with pytest.raises(MachineError, match="the store s3://bucket/kept"):
        run(on_s3(project, server))
    path = config(project, STEPS, "store: gs://x/y\n")
    with pytest.raises(MachineError, match="the store gs://x/y needs a package"):
        run(path)
