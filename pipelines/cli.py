"""The commands, and what their exit codes mean."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from pipelines.errors import ConfigError, Issue, MachineError, PipelineError, Stopped, did_you_mean, redacted
from pipelines.k8s import commands as kubernetes
from pipelines.pipeline import Pipeline, load
from pipelines.spec import EXECUTORS, project_root
from pipelines.types import size_text

if TYPE_CHECKING:  # a command imports what it needs when it is called: a check needs neither Dask nor what draws
    from pipelines.executors.base import Executor
    from pipelines.run import Result

CODES = """exit codes:
  0    done
  2    the config or the command line is wrong: nothing was run
  3    the data contradicts the config
  4    the environment: a full disk, a missing package, a cluster that does not answer
  130  stopped by Ctrl-C: nothing half-written is left"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parsed(arguments)
    try:
        if options.command not in (_check, _plan, _run):
            _collected()
        code = options.command(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, Stopped):
        print("\nstopped; nothing half-written is left. The same command starts it again.", file=sys.stderr)
        return 130
    except PipelineError as error:
        _complain(error.issues, error.notes)
        return error.exit_code
    except BrokenPipeError:  # `| head` has seen enough
        _unheard(sys.stdout)
        return 0
    return code or 0


def _collected() -> None:
    """From now on garbage is looked for, in a process that began without, except in what there is by now: that takes 0.1 s, and finds none."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong and what to do in the form of all other errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=CODES, **options
        )

    def error(self, message: str) -> NoReturn:
        self.fail(message, f"{self.prog} --help")

    def fail(self, message: str, remedy: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _complain([Issue(message, remedy)])
        raise SystemExit(2)


class _Version(argparse.Action):
    """Looks it up when it is asked for: that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from pipelines.versions import version

        print(f"pipelines {version('pipelines')}")
        raise SystemExit(0)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    word = given[0]
    if not word.startswith("-") and word not in commands:
        parser.fail(f"unknown command {word!r}", did_you_mean(word, commands))
    options, strange = parser.parse_known_args(given)
    if strange:
        command = commands.get(" ".join(given[:2]), commands[word])
        remedy = f"{command.prog} --help"
        if strange[0].startswith("-"):
            known = [option for action in command._actions for option in action.option_strings]
            near = did_you_mean(strange[0].split("=")[0], known)
            remedy = near if near.startswith("did") else remedy
        command.fail(f"{command.prog} does not take {strange[0]!r}", remedy)
    return options


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="pipelines", description="Data pipelines as short YAML files: checked completely, then run with Dask."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say which this is")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    commands = dict[str, _Parser]()

    def command(name: str, call: object, text: str, example: str) -> _Parser:
        made: _Parser = subparsers.add_parser(name, help=text, description=f"{text}.\n\nexample:\n  {example}")
        made.set_defaults(command=call)
        commands[name] = made
        return made

    new = command(
        "new", _new, "write a commented starter config for data files", "pipelines new data/prices.csv -o prices.yaml"
    )
    new.add_argument("data", metavar="DATA", help="a CSV or Parquet file, a folder or a glob in quotes")
    new.add_argument("-o", dest="output", metavar="FILE", help="where to write it (default: named after the data; - prints it)")  # fmt: skip

    check = command(
        "check", _check, "check configs completely, all mistakes at once; runs nothing", "pipelines check configs/*.yaml"
    )  # fmt: skip
    _config(check, many=True)
    check.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="text for people (default); json: a list of objects; github: annotations in GitHub Actions",
    )

    plan = command(
        "plan", _plan, "show what each step will produce, and how it will run", "pipelines plan configs/stock_groupby.yaml"
    )  # fmt: skip
    _config(plan)
    plan.add_argument("--format", choices=("text", "json"), default="text", help="text for people (default), or json")

    graph = command(
        "graph", _graph, "draw the steps, the stages they run in and the exchanges", "pipelines graph configs/stock_groupby.yaml -o stocks.svg"
    )  # fmt: skip
    _config(graph)
    graph.add_argument("-o", dest="output", metavar="FILE", help="the SVG file (default: named after the config; - prints it)")  # fmt: skip

    check.add_argument(
        "--executor", choices=("kubernetes",), help="also whether its workers reach all files that are read and written"
    )

    run = command(
        "run", _run, "run a pipeline and show the head of each result", "pipelines run configs/stock_groupby.yaml --executor threads -p partitions=8"
    )  # fmt: skip
    _config(run)
    run.add_argument(
        "--executor",
        type=_executor,
        metavar="NAME",
        help=f"where to run: {', '.join(EXECUTORS)} or tcp://host:8786 (default: the config's `executor:`, else local)",
    )
    run.add_argument("--to", metavar="STEP", help="run only up to this step and show its table; writes nothing")
    run.add_argument("--head", metavar="N", type=_count, default=10, help="rows to show of each result (default: 10)")
    run.add_argument(
        "--performance-report", action="store_true", help="save Dask's performance report in the run's folder (local)"
    )
    run.add_argument("--fresh", action="store_true", help="compute everything: what is in the store is not used")
    run.add_argument(
        "--log",
        choices=("text", "json"),
        default="text",
        help="what is said while it runs: text (default), or JSON lines",
    )
    run.add_argument("--keep", action="store_true", help="keep the cluster and its dashboard up until Ctrl-C (local)")

    race = command(
        "race", _race, "run a pipeline on each executor: equal answers, and what each costs", "pipelines race configs/squares.yaml -o race.svg"
    )  # fmt: skip
    _config(race)
    race.add_argument("--executors", metavar="A,B,...", help="which ones, the first to begin (default: all that need no address)")  # fmt: skip
    race.add_argument("--repeat", metavar="N", type=int, default=3, help="runs on each (default 3); the medians count")
    race.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write the chart here, as SVG")

    runs = command(
        "runs", _runs, "list the runs of this project, show one, compare two", "pipelines runs compare last 5f1c"
    )
    runs.add_argument("action", choices=("ls", "show", "compare"), help="what to do")
    runs.add_argument("runs", metavar="RUN", nargs="*", help="a run's name, its end, or `last`")
    runs.add_argument("--json", action="store_true", help="the records as they are, as JSON")

    store = command(
        "store", _store, "look after the durable tables: list, show, verify, remove what is not used", "pipelines store gc --older-than 30"
    )  # fmt: skip
    store.add_argument("action", choices=("ls", "show", "verify", "gc"), help="what to do")
    store.add_argument("folder", metavar="FOLDER", nargs="?", help="show: a folder of the store, as ls names it")
    store.add_argument("--config", type=Path, metavar="CONFIG", help="the store of this config (default: runs/.store)")
    _values(store)
    store.add_argument("--older-than", metavar="DAYS", type=_days, default=30.0, help="gc: remove what no run used for so long (default: 30)")  # fmt: skip
    store.add_argument("--dry-run", action="store_true", help="gc: only say what would be removed")

    steps = command("steps", _steps, "list the kinds of steps, or explain one", "pipelines steps aggregate")
    steps.add_argument("kind", metavar="KIND", nargs="?", help="a kind: its documentation, options and an example")

    k8s = command(
        "k8s", None, "run on Kubernetes: doctor, render, submit, status, logs, dashboard, cancel, cleanup", "pipelines k8s submit configs/stock_groupby.yaml --wait"
    )  # fmt: skip
    inside = k8s.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def within(name: str, call: object, text: str, example: str) -> _Parser:
        made: _Parser = inside.add_parser(name, help=text, description=f"{text}.\n\nexample:\n  {example}")
        made.set_defaults(command=call)
        commands[f"k8s {name}"] = made
        return made

    kubernetes.add(within, _config, _loaded)

    schema = command(
        "schema", _schema, "print the JSON Schema of configs, for editors", "pipelines schema -o pipelines.schema.json"
    )
    schema.add_argument("-o", dest="output", metavar="FILE", help="write it here (default: print it)")
    return parser, commands


def _config(command: _Parser, many: bool = False) -> None:
    command.add_argument(
        "config", type=Path, metavar="CONFIG", nargs="+" if many else None, help="the config's YAML file"
    )
    _values(command)


def _values(command: _Parser) -> None:
    command.add_argument(
        "-p", dest="params", metavar="NAME=VALUE", action="append", default=[],
        help="set a parameter of the config; may stand several times",
    )  # fmt: skip
    command.add_argument(
        "--overlay",
        dest="overlays",
        metavar="FILE",
        action="append",
        default=[],
        help="YAML put over the config: mappings key by key, other values replace; several in this order",
    )


def _executor(text: str) -> str:
    if text not in EXECUTORS and "://" not in text:
        remedy = f"write tcp://{text}" if ":" in text else did_you_mean(text, EXECUTORS)
        raise argparse.ArgumentTypeError(f"unknown executor {text!r}: {remedy}")
    return text


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return days


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _complain(issues: Sequence[Issue], notes: Sequence[str] = ()) -> None:
    for issue in issues:
        print(f"error: {issue}", file=sys.stderr)
    for note in notes:
        print(redacted(f"note: {note}"), file=sys.stderr)


def _params(options: argparse.Namespace) -> dict[str, str]:
    params = dict[str, str]()
    for given in options.params:
        name, equals, value = given.partition("=")
        if not equals or not name:
            raise ConfigError(Issue(f"-p {given}: this is not NAME=VALUE", "for example -p prices=data/*.csv"))
        if name in params:
            raise ConfigError(Issue(f"-p {given}: {name!r} is set twice", "keep one"))
        params[name] = value
    return params


def _loaded(options: argparse.Namespace) -> Pipeline:
    return load(options.config, _params(options), options.overlays)


def _say(text: str) -> None:
    try:
        print(redacted(text), file=sys.stderr, flush=True)
    except BrokenPipeError:  # `2>&1 | head` has seen enough; the run goes on
        _unheard(sys.stderr)


def _unheard(stream: TextIO) -> None:
    """From now on what is written to it, and what Python would still flush, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _written(text: str, path: Path, *, replace: bool = True) -> None:
    """Writes a command's product. Raises MachineError, also where it would replace a file that it may not."""
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(Issue(f"{path} exists", "choose another file with -o, or remove it")) from None
    except OSError as error:
        raise MachineError(Issue(f"cannot write {path}: {error.strerror}", "choose another place with -o")) from None


# The commands


def _new(options: argparse.Namespace) -> None:
    from pipelines import starter

    name = options.output or f"{starter.plain_name(options.data)}.yaml"
    path = Path(name)
    text = starter.config(options.data, path if name != "-" else Path("new.yaml"))
    if name == "-":
        print(text, end="")
        return
    _written(text, path, replace=False)
    print(f"written to {path}; next:\n  pipelines check {path}\n  pipelines run {path}")


def _check(options: argparse.Namespace) -> int:
    from pipelines import messages

    params, found, codes = _params(options), list[tuple[Path, Sequence[Issue]]](), set[int]()
    for config in options.config:
        try:
            pipeline = load(config, params, options.overlays)
            plan = pipeline.plan()
            if "kubernetes" in (options.executor, pipeline.spec.executor.kind):
                from pipelines.k8s.reach import travelling

                travelling(pipeline.spec)
        except PipelineError as error:
            codes.add(error.exit_code)
            found.append((config, error.issues))
            if options.format == "text":
                _complain(error.issues, error.notes)
        else:
            if options.format == "text":
                print(f"{config}: ok, {len(plan.nodes)} step{'s' * (len(plan.nodes) != 1)}", flush=True)
                _complain((), plan.notes)
    if options.format == "json":
        print(messages.as_json(found))
    elif options.format == "github":
        for config, issues in found:
            for issue in issues:
                print(messages.as_github(issue, config))
    return min(codes, default=0)


def _plan(options: argparse.Namespace) -> None:
    from pipelines import explain
    from pipelines.stages import cut

    plan = _loaded(options).plan()
    facts = explain.facts(cut(plan))
    print(redacted(explain.as_json(facts) if options.format == "json" else explain.as_text(facts)))


def _graph(options: argparse.Namespace) -> None:
    from pipelines import drawing
    from pipelines.stages import cut

    svg = redacted(drawing.svg(cut(_loaded(options).plan())))
    if options.output == "-":
        print(svg, end="")
        return
    path = Path(options.output or f"{options.config.stem}.svg")
    _written(svg, path)
    print(f"written to {path}; a browser shows it, with each step's columns under the pointer")


def _run(options: argparse.Namespace) -> None:
    from pipelines.record import Log
    from pipelines.run import execute

    pipeline = _loaded(options)

    def done(executor: Executor, result: Result) -> None:
        try:
            _show(result)
        except BrokenPipeError:  # all is written by now
            _unheard(sys.stdout)
        if options.performance_report and executor.kind != "local":
            _say(f"note: --performance-report is of the executor local; this was {executor.described}")
        if options.keep and executor.dashboard is None:
            _say(f"note: --keep keeps a cluster up; {executor.described} has none")
        elif options.keep:
            print(f"the cluster stays up: {executor.dashboard} (Ctrl-C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)

    plan = pipeline.plan()
    _collected()
    execute(
        plan,
        options.executor,
        to=options.to,
        head=options.head,
        log=Log(_say, options.log == "json"),
        fresh=options.fresh,
        performance_report=options.performance_report,
        show_progress=True,
        done=done,
    )


def _show(result: Result) -> None:
    from pipelines import report

    for produced in result.outputs.values():
        print(f"\n{produced.step}:\n{redacted(report.table(produced.head, produced.rows))}")
        if produced.path is not None:
            print(f"written to {_near(produced.path)} ({size_text(produced.bytes)})")
    for step, count in result.rejected.items():
        kept = result.folder / "bad_rows" / f"{step}.csv"
        where = f": {_near(kept)}" if kept.exists() else ""
        print(f"\n{step}: {count:,} bad row{'s' * (count != 1)} left out{where}")
    print("\nstage, partitions, time:")
    width = max((len(stage.name) for stage in result.stages), default=0)
    for stage in result.stages:
        print(f"  {stage.name:{width}}  {stage.partitions:>5}  {report.seconds(stage.seconds):>9}")
    print(f"done in {report.seconds(result.seconds)}; record in {_near(result.folder)}", flush=True)


def _runs(options: argparse.Namespace) -> None:
    import json

    from pipelines import history

    wanted = {"show": 1, "compare": 2}.get(options.action, 0)
    names = options.runs or (["last"] if options.action == "show" else [])
    if len(names) != wanted:
        many = ("no run", "one run", "two runs")[wanted]
        raise ConfigError(
            Issue(f"`runs {options.action}` takes {many}", f"pipelines runs {options.action}{' RUN' * wanted}")
        )
    past = history.past(project_root(Path("here")))
    chosen = [history.chosen(past, name) for name in names] or past
    if options.json:
        print(json.dumps([{**run.facts, "state": run.state} for run in chosen], indent=2))
    elif options.action == "ls":
        print(history.listed(chosen))
    elif options.action == "show":
        print(history.shown(chosen[0]))
    else:
        print(history.compared(*chosen))


def _store(options: argparse.Namespace) -> int:
    from pipelines import stores
    from pipelines.checkpoint import Store, store_of

    if options.config is not None:
        store = store_of(_loaded(options).spec)
    else:
        store = Store(str(project_root(Path("here")) / "runs/.store"))
    if options.folder and options.action != "show":
        what = f"`store {options.action}` takes no folder, and {options.folder!r} is one"
        raise ConfigError(Issue(what, f"pipelines store {options.action} --config CONFIG looks at a config's store"))
    found = stores.contents(store)
    for path in found.foreign:
        print(f"note: {path} is not of the store", file=sys.stderr)
    if options.action == "ls":
        print(stores.listed(found))
    elif options.action == "show":
        folders = sorted({name.folder for name in found.partitions})
        if not options.folder or not any(folder.startswith(options.folder) for folder in folders):
            remedy = did_you_mean(options.folder or "", folders) or "the store is empty"
            raise ConfigError(Issue("`store show` takes a folder of the store", remedy))
        print(stores.described(found, options.folder))
    elif options.action == "verify":
        stores.verify(store, found)
        for name, why in found.doubtful.items():
            print(f"{name.path}: {why}; the next run that needs it computes it anew")
        print(f"{len(found.partitions):,} partitions are whole, {len(found.doubtful):,} are not")
        return 3 if found.doubtful else 0
    else:
        count, size = stores.collect(store, found, options.older_than * 86_400, remove=not options.dry_run)
        print(f"{'would remove' if options.dry_run else 'removed'} {count:,} partitions, {size_text(size)}")
    return 0


def _steps(options: argparse.Namespace) -> None:
    from pipelines import reference

    print(reference.listed() if options.kind is None else reference.explained(options.kind))


def _race(options: argparse.Namespace) -> None:
    from pipelines import race

    chart: Path | None = options.output
    if chart is not None and not chart.resolve().parent.is_dir():  # known before the race, not after it
        raise MachineError(Issue(f"cannot write {chart}: there is no such folder", "name another file with -o"))
    executors = options.executors.split(",") if options.executors else race.RACED
    found = race.race(
        options.config, _params(options), options.overlays, executors=executors, repeat=options.repeat, say=_say
    )
    print(race.text(found))
    if chart is not None:
        try:
            chart.write_text(race.svg(found), encoding="utf-8")
        except OSError as error:
            raise MachineError(Issue(f"cannot write {chart}: {error.strerror}", "name another file with -o")) from None
        print(f"chart: {chart}")


def _schema(options: argparse.Namespace) -> None:
    from pipelines import schema

    text = schema.text()
    if options.output is None:
        print(text, end="")
    else:
        _written(text, Path(options.output))
        print(f"written to {options.output}")
