"""What can be wrong, as values: a place, what is wrong there, and what to do about it."""

from __future__ import annotations

import difflib
import errno
import json
import re
import socket
import threading
from collections.abc import Collection, Iterable
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace


class Place(Struct, frozen=True, order=True):
    """A position in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Issue(Struct, frozen=True):
    """One mistake: where it is (when it has a place), what is wrong, what to do."""

    message: str
    remedy: str = ""
    place: Place | None = None

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}\n    {self.remedy}" if self.remedy else head


class PipelineError(Exception):
    """Issues that end a command, in the order of their places; the class decides the exit code."""

    exit_code = 1
    passing = False
    """Whether what failed may succeed when it is tried again."""
    notes: tuple[str, ...] = ()
    """What may be behind them: doubts about types that were sampled."""

    def __init__(self, *issues: Issue) -> None:
        super().__init__(*issues)
        clean = (replace(i, message=redacted(i.message), remedy=redacted(i.remedy)) for i in issues)
        self.issues = tuple(sorted(clean, key=lambda issue: (issue.place is None, issue.place)))

    def __str__(self) -> str:
        return "\n".join(map(str, self.issues))


class ConfigError(PipelineError):
    """The config is wrong: nothing was run."""

    exit_code = 2


class DataError(PipelineError):
    """The data contradicts the config."""

    exit_code = 3


class MachineError(PipelineError):
    """The machine cannot do it: a full disk, a missing package, a cluster that does not answer."""

    exit_code = 4


class Stopped(PipelineError):
    """Ctrl-C, as a task in another thread than the main one says it: KeyboardInterrupt would end a cluster's event loop."""

    exit_code = 130


def stopped(error: KeyboardInterrupt) -> BaseException:
    """What to raise instead: Polars tells of Ctrl-C in any thread."""
    in_main = threading.current_thread() is threading.main_thread()
    return error if in_main else Stopped(Issue("stopped by Ctrl-C"))


_ENVIRONMENT = {
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO), "see whether the disk or mount is there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give this user access"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    errno.EROFS: "the disk is read-only: choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}  # fmt: skip
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, socket.EAI_AGAIN,
}  # fmt: skip
_NETWORKS = {
    "IncompleteRead",
    "RemoteDisconnected",
    "ConnectionError",
    "Timeout",
    "ChunkedEncodingError",
    "TransportError",
}
"""Names of classes, of http.client, requests and httpx, whose errors pass: none of them is imported for that."""


def may_pass(error: BaseException) -> bool:
    """Whether what failed may succeed a moment later: a connection, a network disk, a server that has too much to do."""
    if isinstance(error, PipelineError):
        return error.passing
    if not isinstance(error, Exception):
        return False
    reason = getattr(error, "reason", None)  # urllib.error.URLError
    for inner in (error.__cause__, reason):
        if isinstance(inner, Exception) and may_pass(inner):
            return True
    if isinstance(error, ConnectionError | TimeoutError) or _NETWORKS & {each.__name__ for each in type(error).__mro__}:
        return True
    answer = getattr(error, "response", error)  # of requests and httpx; urllib.error.HTTPError is its own
    status = getattr(answer, "status_code", None) or getattr(answer, "code", None)
    return status in (408, 429, 500, 502, 503, 504) or (isinstance(error, OSError) and _number(error) in _PASSING)


def of_machine(error: BaseException) -> bool:
    """Whether the disk or the network is at fault, not what is in a file."""
    return isinstance(error, OSError) and (_number(error) in _ENVIRONMENT or may_pass(error))


def _number(error: OSError) -> int:
    """The system's; Polars has it in its text only, and s3fs's refusals have none."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno or (int(found[1]) if found else errno.EACCES if isinstance(error, PermissionError) else 0)


def machine_error(what: str, error: OSError, remedy: str) -> MachineError:
    """`what` could not be done, in the system's words, with what helps against just that."""
    found = MachineError(Issue(f"{what}: {error.strerror or error}", _ENVIRONMENT.get(_number(error)) or remedy))
    found.passing = may_pass(error)
    return found


_LONG_LINE = 8
"""Of a secret of several lines, each line of so many characters is one."""
_secrets = set[str]()
_names = dict[str, set[str]]()
"""Secret: what it is called."""


def keep_secret(value: str, name: str = "") -> None:
    """From now on `redacted` hides this text."""
    if value:
        lines = (line for line in value.splitlines() if len(line) >= _LONG_LINE)
        both = value + "'\""  # Python escapes a quote where a text has both kinds
        escaped = (
            text.removesuffix(end)
            for v, end in ((value, ""), (both, "\\'\""))
            for text in (repr(v)[1:-1], ascii(v)[1:-1], repr(v.encode())[2:-1])
        )
        forms = (value, json.dumps(value)[1:-1], quote(value), quote(value, safe=""), *escaped, *lines)
        _secrets.update(forms)
        for form in forms:
            _names.setdefault(form, set()).add(name)


def kept_secrets() -> tuple[str, ...]:
    return tuple(_secrets)


def redacted(text: str) -> str:
    """The text without secrets: for all that is printed or recorded."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def named(text: str, names: Collection[str]) -> str:
    """The text with their names for these secrets: with a new value of a secret it is the same text."""
    for secret in sorted(_names, key=len, reverse=True):
        if here := _names[secret].intersection(names):
            text = text.replace(secret, f"${{secret:{min(here)}}}")
    return text


_MEANT = {
    **dict.fromkeys(("groupby", "partitionby", "key", "keys", "subset", "on"), ("by", "partition_by", "aggregate")),
    **dict.fromkeys(("orderby", "order", "sortby", "sort"), ("order_by", "by", "sort")),
    **dict.fromkeys(("desc", "reverse"), ("descending",)),
    **dict.fromkeys(("lefton", "righton", "using", "by"), ("on",)),
    **dict.fromkeys(("sep", "delim", "delimiter"), ("separator",)),
    **dict.fromkeys(("outer", "fullouter"), ("full",)),
    **{"leftouter": ("left",), "rightouter": ("right",), "where": ("filter",), "having": ("filter",), "merge": ("join",)},
    **dict.fromkeys(("asofjoin", "mergeasof", "asof"), ("join_asof",)),
    **{"rolling": ("window",), "over": ("window",), "resample": ("aggregate",)},
    **dict.fromkeys(("withcolumn", "withcolumns", "mutate", "assign", "compute"), ("derive",)),
    **dict.fromkeys(("rename", "drop", "cast"), ("select",)),
    **dict.fromkeys(("concat", "append", "unionall"), ("union",)),
    **dict.fromkeys(("dropduplicates", "unique"), ("dedupe",)),
    **dict.fromkeys(("int", "integer", "bigint", "long"), ("int64", "integer")),
    **dict.fromkeys(("float", "double", "real"), ("float64", "number")),
    **dict.fromkeys(("str", "text", "varchar", "char", "object"), ("string",)),
    **{"timestamp": ("datetime",), "numeric": ("decimal(precision,scale)",)},
}  # fmt: skip
"""What SQL, pandas, Polars and dbt call it, without capitals and signs: what it is called here, the first that is known."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant."""
    known, plain = list(known), _plain(word)
    same = [k for k in known if plain and _plain(k) == plain]
    near = same or [m for m in _MEANT.get(plain, ()) if m in known]
    return next(iter(near or difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known word, or lists them all when none is near."""
    known = list(known)
    if (near := nearest(word, known)) is not None:
        return f"did you mean {near!r}?"
    return f"known: {', '.join(known[:40])}" if known else ""
