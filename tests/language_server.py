"""A real yaml-language-server, spoken to over stdio as an editor does."""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pytest

LOCKED = Path(__file__).parent / "editor"
_SECONDS = 30.0


def installed(cache: pytest.Cache) -> Path:
    """The server's program: fetched once with npm, exactly as locked, into pytest's cache. Skips where that fails."""
    lock = (LOCKED / "package-lock.json").read_bytes()
    folder = cache.mkdir(f"yaml-language-server-{hashlib.sha256(lock).hexdigest()[:12]}")
    program = folder / "node_modules/yaml-language-server/bin/yaml-language-server"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            pytest.skip("needs node and npm, to run yaml-language-server")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKED / name, folder)
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=240, check=False
        )
        if done.returncode:
            pytest.skip(f"npm cannot fetch yaml-language-server: {done.stderr.strip()[-300:]}")
    return program


class LanguageServer:
    """Opens documents and asks about places in them; lines and characters count from 0."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            ["node", program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.numbers = itertools.count(1)
        self.answers: queue.Queue[Any] = queue.Queue()
        self.diagnostics: queue.Queue[Any] = queue.Queue()

    def __enter__(self) -> LanguageServer:
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()
        workspace = {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}}
        document = {
            "completion": {"completionItem": {"snippetSupport": True}},
            "hover": {"contentFormat": ["markdown"]},
        }
        self.ask(
            "initialize",
            processId=None,
            rootUri=self.folder.as_uri(),
            capabilities={"workspace": workspace, "textDocument": document},
        )
        self.tell("initialized")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def open(self, path: Path, text: str) -> list[Any]:
        """The diagnostics of a document with this text."""
        self.tell(
            "textDocument/didOpen",
            textDocument={"uri": path.as_uri(), "languageId": "yaml", "version": next(self.numbers), "text": text},
        )
        while True:
            found = self.diagnostics.get(timeout=_SECONDS)
            if found["uri"] == path.as_uri():
                return list(found["diagnostics"])

    def completion(self, path: Path, line: int, character: int) -> list[str]:
        """The labels that are proposed."""
        found = self._at("textDocument/completion", path, line, character)
        return [item["label"] for item in (found["items"] if isinstance(found, dict) else found)]

    def hover(self, path: Path, line: int, character: int) -> str:
        """The text that is shown."""
        found = self._at("textDocument/hover", path, line, character)
        return str(found["contents"]["value"]) if found else ""

    def ask(self, method: str, **params: Any) -> Any:
        number = next(self.numbers)
        self._send({"id": number, "method": method, "params": params})
        while True:
            answer = self.answers.get(timeout=_SECONDS)
            if answer["id"] == number:
                assert "error" not in answer, answer
                return answer["result"]

    def tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def _at(self, method: str, path: Path, line: int, character: int) -> Any:
        return self.ask(method, textDocument={"uri": path.as_uri()}, position={"line": line, "character": character})

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.process.stdin.flush()

    def _listen(self, pipe: IO[bytes]) -> None:
        while header := pipe.readline():
            length = int(header.split(b":")[1])
            while pipe.readline().strip():
                pass
            message = json.loads(pipe.read(length))
            if "method" not in message:
                self.answers.put(message)
            elif message["method"] == "textDocument/publishDiagnostics":
                self.diagnostics.put(message["params"])
            elif message["method"] == "workspace/configuration":
                settings = {"yaml": {"schemaStore": {"enable": False}}}
                items = message["params"]["items"]
                self._send({"id": message["id"], "result": [settings.get(item.get("section"), {}) for item in items]})
            elif "id" in message:
                self._send({"id": message["id"], "result": None})
