"""Issues for people, for programs and for GitHub's annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import Issue

Format = Literal["text", "json", "github"]
FORMATS: tuple[Format, ...] = ("text", "json", "github")


def as_data(issue: Issue, config: Path) -> dict[str, Any]:
    """The issue as plain data; what stands in no file is about the config as a whole."""
    place = issue.place if issue.place is not None and not issue.place.file.startswith("-p ") else None
    return {
        "file": place.file if place else str(config),
        "line": place.line if place else None,
        "column": place.column if place else None,
        "severity": "error",
        "message": issue.message,
        "remedy": issue.remedy,
    }


def as_json(found: Iterable[tuple[Path, Sequence[Issue]]]) -> str:
    """One JSON list of all issues: empty when there are none."""
    return json.dumps([as_data(issue, config) for config, issues in found for issue in issues], indent=2)


def as_github(issue: Issue, config: Path) -> str:
    """A workflow command: GitHub shows it beside the line of a pull request."""
    data = as_data(issue, config)
    where = [f"file={_property(data['file'])}"]
    if data["line"] is not None:
        where += [f"line={data['line']}", f"col={data['column']}"]
    text = f"{issue.message}\n{issue.remedy}" if issue.remedy else issue.message
    return f"::error {','.join(where)}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
