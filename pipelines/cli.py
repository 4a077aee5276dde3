"""The commands, and what their exit codes mean: 0 done, 2 the config is wrong, 3 the data is wrong, 4 the machine, 130 Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError, Issue, MachineError, PipelineError
from pipelines.pipeline import Pipeline, load
from pipelines.spec import EXECUTORS
from pipelines.stages import cut, describe
from pipelines.steps.base import Input
from pipelines.types import dtype_name, size_text

if TYPE_CHECKING:  # a check and a plan need neither Dask nor what shows a run
    from pipelines.executors.base import Executor
    from pipelines.run import Result


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except PipelineError as error:
        for issue in error.issues:
            print(f"error: {issue}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; nothing half-written is left. The same command starts it again.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pipelines", description="Declarative data pipelines on Dask.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "run a pipeline")
    run.add_argument(
        "--executor", choices=EXECUTORS, help="where to run (default: the config's `executor:`, else local)"
    )
    run.add_argument("--to", metavar="STEP", help="run only up to this step and show its table")
    run.add_argument("--head", metavar="N", type=_count, default=10, help="rows to show of each result (default 10)")
    run.add_argument(
        "--performance-report", action="store_true", help="save Dask's performance report in the run's folder (local)"
    )
    run.add_argument("--keep", action="store_true", help="keep the cluster and its dashboard up until Ctrl-C (local)")
    _command(commands, "check", _check, "check a config completely; runs nothing")
    race = _command(commands, "race", _race, "run a pipeline on each executor: equal answers, and what each costs")
    race.add_argument("--executors", metavar="A,B,...", help="which ones, the first to begin (default: all that need no address)")  # fmt: skip
    race.add_argument("--repeat", metavar="N", type=int, default=3, help="runs on each (default 3); the medians count")
    race.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write the chart here, as SVG")
    _command(commands, "plan", _plan, "show what each step will produce, and how it will run")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, call: object, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=call)
    command.add_argument("config", type=Path, metavar="CONFIG")
    command.add_argument(
        "-p", dest="params", metavar="NAME=VALUE", action="append", default=[], help="set a parameter of the config"
    )
    return command


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _params(options: argparse.Namespace) -> dict[str, str]:
    params = dict[str, str]()
    for given in options.params:
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(Issue(f"-p {given}: this is not NAME=VALUE", "for example -p prices=data/*.csv"))
        params[name] = value
    return params


def _loaded(options: argparse.Namespace) -> Pipeline:
    return load(options.config, _params(options))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(options: argparse.Namespace) -> None:
    from pipelines.run import execute

    pipeline = _loaded(options)

    def done(executor: Executor, result: Result) -> None:
        _show(result)
        if options.keep and executor.dashboard is not None:
            print(f"the cluster stays up: {executor.dashboard} (Ctrl-C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)

    execute(
        pipeline.plan(),
        options.executor,
        to=options.to,
        head=options.head,
        say=_say,
        performance_report=options.performance_report,
        show_progress=True,
        done=done,
    )


def _show(result: Result) -> None:
    from pipelines import report

    for produced in result.outputs.values():
        print(f"\n{produced.step}:\n{report.table(produced.head, produced.rows)}")
        if produced.path is not None:
            print(f"written to {_near(produced.path)} ({size_text(produced.bytes)})")
    print("\nstage, partitions, time:")
    width = max(len(name) for name, _, _ in result.stages)
    for name, count, seconds in result.stages:
        print(f"  {name:{width}}  {count:>5}  {report.seconds(seconds):>9}")
    print(f"done in {report.seconds(result.seconds)}; record in {_near(result.folder)}", flush=True)


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _race(options: argparse.Namespace) -> None:
    from pipelines import race

    chart: Path | None = options.output
    if chart is not None and not chart.resolve().parent.is_dir():  # known before the race, not after it
        raise MachineError(Issue(f"cannot write {chart}: there is no such folder", "name another file with -o"))
    executors = options.executors.split(",") if options.executors else race.RACED
    found = race.race(options.config, _params(options), executors=executors, repeat=options.repeat, say=_say)
    print(race.text(found))
    if chart is not None:
        try:
            chart.write_text(race.svg(found), encoding="utf-8")
        except OSError as error:
            raise MachineError(Issue(f"cannot write {chart}: {error.strerror}", "name another file with -o")) from None
        print(f"chart: {chart}")


def _check(options: argparse.Namespace) -> None:
    plan = _loaded(options).plan()
    print(f"{options.config}: ok, {len(plan.nodes)} steps")


def _plan(options: argparse.Namespace) -> None:
    plan = _loaded(options).plan()
    for node in plan.nodes.values():
        source = f" from {node.input}" if node.input else ""
        print(f"{node.name}: {node.kind}{source}{' (kept in memory)' if node.checkpoint else ''}")
        if node.role != "sink":
            width = max(len(name) for name in node.schema)
            for name, dtype in node.schema.items():
                print(f"    {name:{width}}  {dtype_name(dtype)}")
        if isinstance(node.bound, Input):
            print(
                f"    {len(node.bound.partitions)} partition{'s' * (len(node.bound.partitions) != 1)}, {size_text(node.bound.bytes)} of input"
            )
            for note in node.bound.notes:
                print(f"    note: {note}")
            if node.bound.sampled:
                types = ", ".join(f"{_yaml(name)}: {_yaml(dtype_name(t))}" for name, t in node.bound.sampled.items())
                print(f"    sampled, to declare: dtypes: {{{types}}}")
    print("\nstages:")
    for stage in describe(cut(plan)):
        origin = f" <- {stage['exchange']} of {stage['from']}" if stage["from"] else ""
        columns = stage["columns"] if isinstance(stage["columns"], str) else ", ".join(stage["columns"])
        print(
            f"  {stage['stage']}{origin}: {stage['partitions']} partition{'s' * (stage['partitions'] != 1)}; {columns}"
        )


def _yaml(text: str) -> str:
    return text if text.replace("_", "").isalnum() and not text[0].isdigit() else f'"{text}"'
