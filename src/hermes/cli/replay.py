"""`hermes replay`: scheduling policies against a recorded trace, in virtual time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from hermes.cli.amounts import Number
from hermes.cli.options import fail, say
from hermes.simulator.replay import (
    POLICIES,
    Arrival,
    Box,
    Figures,
    Model,
    Study,
    Trial,
    models_by_use,
    read_trace,
    table,
    trials,
)


def _several(each: "click.ParamType[Any]") -> Callable[[str], tuple[Any, ...]]:
    """Values joined with commas."""
    return lambda text: tuple(each.convert(part.strip(), None, None) for part in text.split(","))


class _Picture(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in (".svg", ".png"):
            self.fail(f"{value!r} does not end in .svg or .png.", param, ctx)
        return path


_POSITIVE = Number(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@click.command("replay", context_settings={"show_default": True})
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    type=_several(click.Choice(list(POLICIES))),
    default=",".join(POLICIES),
    metavar="NAME,..",
    help="What to compare.",
)
@click.option(
    "--rate",
    "rates",
    type=_several(_POSITIVE),
    metavar="R,..",
    help="Stretch to so many arrivals a second.  [default: 0.8; of an access log its own]",
)
@click.option("--requests", type=_COUNT, default=4000, metavar="N", help="So many arrivals of the trace at most.")
@click.option("--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first.")
@click.option("--burst", is_flag=True, show_default=False, help="Squeeze each minute's arrivals into 20 seconds.")
@click.option("--seeds", type=_several(click.INT), default="1,2,3", metavar="N,..", help="Of what is drawn.")
@click.option(
    "--shares",
    type=_several(Number(min=0)),
    default=".55,.25,.15,.05",
    metavar="X,..",
    help="How often each model is asked for; not for an access log, which tells.",
)
@click.option(
    "--load-times", type=_several(Number(min=0)), default="6,8,14,20", metavar="S,..", help="Of each model, or of all."
)
@click.option("--sizes", type=_several(_POSITIVE), default="1,1,1,1", metavar="X,..", help="Of each model, or of all.")
@click.option("--memory", type=_POSITIVE, default=2.0, metavar="X", help="Room for models, in the unit of the sizes.")
@click.option("--slots", type=_COUNT, default=4, metavar="N", help="Requests that a loaded model runs at once.")
@click.option("--prefill", type=_POSITIVE, default=2000.0, metavar="N", help="Tokens of context read in a second.")
@click.option("--decode", type=_POSITIVE, default=40.0, metavar="N", help="Tokens generated in a second.")
@click.option("--max-wait", "max_wait_s", type=_POSITIVE, default=30.0, metavar="S", help="What starts later is lost.")
@click.option("--tenants", type=_COUNT, default=1, metavar="N", help="So many ask; not for an access log, which tells.")
@click.option(
    "--floor", type=Number(min=0, max=1), default=0.0, metavar="X", help="Each model's part of the overall goodput."
)
@click.option(
    "--service-error", type=_POSITIVE, default=1.0, metavar="X", help="Multiplies a policy's estimates of service."
)
@click.option("--json", "as_json", is_flag=True, show_default=False, help="Print a list of objects, one for each run.")
@click.option("--plot", type=_Picture(dir_okay=False), metavar="FILE", help="Draw it, as .svg or .png.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    trace: Path,
    policies: tuple[str, ...],
    rates: tuple[float, ...] | None,
    requests: int,
    skip: int,
    burst: bool,
    seeds: tuple[int, ...],
    shares: tuple[float, ...],
    load_times: tuple[float, ...],
    sizes: tuple[float, ...],
    tenants: int,
    as_json: bool,
    plot: Path | None,
    **box: Any,  # the options that a Box has by the same names
) -> None:
    """Run scheduling policies against a trace, in virtual time.

    TRACE is CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, or Hermes's own access log.

    \b
    hermes replay trace.csv
    hermes replay access.log --memory 24 --sizes 5,9,14,20 --load-times 4,6,9,12
    hermes replay trace.csv --policy grouped,ollama --rate 0.4,0.8,1.2 --json
    hermes replay trace.csv --requests 500 --seeds 1 --plot timeline.svg
    """
    draw = _drawing(plot) if plot else None
    arrivals = _arrivals(trace, skip, requests)
    study = Study(
        arrivals,
        Box(_models(ctx, arrivals, shares, load_times, sizes), **box),
        tuple(dict.fromkeys(policies)),
        rates or (None if arrivals[0].model else (0.8,)),
        tuple(dict.fromkeys(seeds)),
        tenants,
        burst,
    )
    _check_that_all_fit(study.box)
    done = []
    shown: dict[str, Trial] = {}
    for trial in trials(study):
        done.append(trial.figures)
        shown.setdefault(trial.figures.policy, trial)
    if draw:
        draw(done, list(shown.values()), study.box)
    say(_as_json(done) if as_json else f"{_setting(study)}\n\n{table(done)}")


def _arrivals(path: Path, skip: int, most: int) -> list[Arrival]:
    try:
        arrivals = read_trace(path)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", 2)
    except ValueError as error:
        fail(str(error), 2)
    if len(arrivals) <= skip:
        fail(f"--skip {skip}: there are only {len(arrivals)} requests in {path}", 2)
    return arrivals[skip : skip + most]


def _models(
    ctx: click.Context,
    arrivals: list[Arrival],
    shares: tuple[float, ...],
    load_times: tuple[float, ...],
    sizes: tuple[float, ...],
) -> tuple[Model, ...]:
    asked_for = _asked_for(ctx, arrivals, shares)
    loads_s = _for_each(ctx, "load_times", load_times, len(asked_for))
    every_size = _for_each(ctx, "sizes", sizes, len(asked_for))
    return tuple(
        Model(name, load_s, size, share)
        for (name, share), load_s, size in zip(asked_for, loads_s, every_size, strict=True)
    )


def _check_that_all_fit(box: Box) -> None:
    for model in box.models:
        if model.size > box.memory:
            fail(f"--sizes: model {model.name} takes {model.size:g}, and --memory is {box.memory:g}: it never fits", 2)


def _is_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is not ParameterSource.DEFAULT


def _asked_for(ctx: click.Context, arrivals: list[Arrival], shares: tuple[float, ...]) -> Sequence[tuple[str, float]]:
    """The models and how often each is asked for: those of a log, else numbered."""
    if not arrivals[0].model:
        if not sum(shares):
            fail("--shares: no model is asked for; one must be more than 0", 2)
        return [(str(number), share) for number, share in enumerate(shares)]
    for option in ("shares", "tenants"):
        if _is_given(ctx, option):
            fail(f"--{option}: an access log tells its own", 2)
    return models_by_use(arrivals)


def _for_each(ctx: click.Context, option: str, values: tuple[float, ...], models: int) -> Sequence[float]:
    """One value for each model. One alone is that of all; defaults are cut, or their last is repeated."""
    if len(values) == 1 or not _is_given(ctx, option):
        return (*values, *(values[-1:] * models))[:models]
    if len(values) != models:
        flag = "--" + option.replace("_", "-")
        fail(f"{flag} has {len(values)} values, and there are {models} models: give one for each, or one for all", 2)
    return values


def _as_json(figures: list[Figures]) -> str:
    return "[\n" + ",\n".join(msgspec.json.encode(one).decode() for one in figures) + "\n]"


def _setting(study: Study) -> str:
    seeds = f"means of {len(study.seeds)} seeds" if len(study.seeds) > 1 else f"seed {study.seeds[0]}"
    return f"{len(study.arrivals)} requests, {seeds}; goodput: started within {study.box.max_wait_s:g} s of arrival"


def _drawing(path: Path) -> Callable[[list[Figures], list[Trial], Box], None]:
    """What draws to that path. Found before the replay, which may take a while."""
    try:
        from hermes.simulator.replay.plot import draw
    except ModuleNotFoundError as error:
        fail(f"--plot needs {error.name}: pip install {error.name}", 2)

    def write(figures: list[Figures], trials: list[Trial], box: Box) -> None:
        try:
            draw(path, figures, trials, box)
        except OSError as error:
            fail(f"cannot write {path}: {error.strerror}", 1)

    return write
