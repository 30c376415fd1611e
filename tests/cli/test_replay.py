"""`hermes replay`: what it prints, what it takes, and what it says of a command line that cannot be right."""

import json
import sys
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner, Result

from hermes.cli import cli
from hermes.simulator.replay import POLICIES
from tests.simulator.replay.boxes import made_up_trace

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text()
KEYS = [
    *("policy", "rate", "seed", "goodput", "wait_p50_s", "wait_p95_s", "wait_p99_s", "wait_max_s", "swaps_per_100"),
    *("goodput_by_model", "fairness", "eta_error_long", "eta_error_short_s", "eta_covered"),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [
        f"2026-01-01 00:{int(a.at_s) // 60:02}:{a.at_s % 60:010.7f},{a.tokens_in},{a.tokens_out}"
        for a in made_up_trace(120)
    ]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.log"
    lines = [
        {"created_at": a.at_s, "model": model, "key_id": key, "tokens_in": a.tokens_in, "tokens_out": a.tokens_out}
        for a, model, key in zip(made_up_trace(60), ["mistral", "gemma", "gemma"] * 20, ["x", "y"] * 30, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def verb(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, arguments)])


def told(*arguments: object) -> list[dict[str, object]]:
    result = verb(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    objects: list[dict[str, object]] = json.loads(result.stdout)
    return objects


def test_json_is_a_list_with_an_object_for_every_run(trace: Path) -> None:
    objects = told(trace, "--policy", "static,fifo", "--rate", "0.4,0.8", "--seeds", "1,2")
    assert [(one["policy"], one["rate"], one["seed"]) for one in objects] == [
        (policy, rate, seed) for policy in ("static", "fifo") for rate in (0.4, 0.8) for seed in (1, 2)
    ]
    assert all(list(one) == KEYS for one in objects)


def test_all_policies_run_at_the_default_rate_with_three_seeds(trace: Path) -> None:
    objects = told(trace)
    assert [one["policy"] for one in objects] == [policy for policy in POLICIES for _ in range(3)]
    assert {(one["rate"], one["seed"]) for one in objects} == {(0.8, 1), (0.8, 2), (0.8, 3)}


def test_the_defaults_are_the_baseline(trace: Path) -> None:
    spelled = "--rate 0.8 --requests 4000 --skip 0 --seeds 1,2,3 --shares .55,.25,.15,.05 --load-times 6,8,14,20"
    spelled += " --sizes 1,1,1,1 --memory 2 --slots 4 --prefill 2000 --decode 40 --max-wait 30 --tenants 1 --floor 0"
    spelled += " --service-error 1.0"
    assert told(trace, *spelled.split()) == told(trace)


@pytest.mark.parametrize(
    "option",
    [
        *("--rate 0.5", "--requests 100", "--skip 20", "--seeds 4,5,6", "--shares 1,1,1,1", "--load-times 30"),
        *("--sizes 2,1,1,1", "--memory 3", "--slots 2", "--prefill 200", "--decode 20", "--max-wait 3", "--burst"),
    ],
)
def test_every_number_of_the_baseline_matters(trace: Path, option: str) -> None:
    common = ("--policy", "grouped")
    assert [one["goodput_by_model"] for one in told(trace, *common)] != [
        one["goodput_by_model"] for one in told(trace, *common, *option.split())
    ]


def test_tenants_change_fairness_and_nothing_else(trace: Path) -> None:
    (alone,), (shared,) = (told(trace, "--policy", "grouped", "--seeds", 1, "--tenants", n) for n in (1, 8))
    assert alone["fairness"] == 1.0 and isinstance(shared["fairness"], float) and 0.3 < shared["fairness"] < 1.0
    assert shared | {"fairness": 1.0} == alone


def test_without_json_it_is_a_table(trace: Path) -> None:
    result = verb(trace, "--policy", "grouped,static", "--rate", "0.5")
    assert result.exit_code == 0
    setting, nothing, heading, *rows = result.stdout.splitlines()
    assert setting == "120 requests, means of 3 seeds; goodput: started within 30 s of arrival"
    assert not nothing and heading.startswith("policy ")
    assert [row.split()[:2] for row in rows] == [["grouped", "0.5"], ["static", "0.5"]]


def test_a_log_is_replayed_with_its_own_models_tenants_and_pace(log: Path) -> None:
    (one,) = told(log, "--policy", "fifo", "--seeds", 1)
    assert one["goodput_by_model"] == {"gemma": 1.0, "mistral": 1.0}  # both fit, the most used first
    arrivals = made_up_trace(60)
    assert one["rate"] == round(59 / (arrivals[-1].at_s - arrivals[0].at_s), 4)
    (faster,) = told(log, "--policy", "fifo", "--seeds", 1, "--rate", 5)
    assert (faster["rate"], faster["goodput_by_model"] != one["goodput_by_model"]) == (5.0, True)


def test_of_a_log_s_models_the_most_used_is_the_first(log: Path) -> None:
    (one,) = told(log, "--policy", "static", "--seeds", 1, "--memory", 1)
    assert one["goodput_by_model"] == {"gemma": 1.0, "mistral": 0.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--rate 0", "--rate"),
        ("--rate 1,-1", "--rate"),
        ("--rate nan", "not a finite number"),
        ("--rate inf", "not a finite number"),
        ("--rate fast", "--rate"),
        ("--rate 1,,2", "--rate"),
        ("--requests 0", "--requests"),
        ("--skip -1", "--skip"),
        ("--skip 120", "there are only 120 requests"),
        ("--seeds one", "--seeds"),
        ("--shares 1,-1,1,1", "--shares"),
        ("--shares 0,0,0,0", "--shares: no model is asked for"),
        ("--shares 1,1 --load-times 1,2,3", "--load-times has 3 values, and there are 2 models"),
        ("--sizes 1,1", "--sizes has 2 values, and there are 4 models"),
        ("--sizes 1,1,1,3", "--sizes: model 3 takes 3, and --memory is 2"),
        ("--sizes 0", "--sizes"),
        ("--memory 0", "--memory"),
        ("--slots 0", "--slots"),
        ("--prefill 0", "--prefill"),
        ("--decode -40", "--decode"),
        ("--max-wait 0", "--max-wait"),
        ("--tenants 0", "--tenants"),
        ("--floor 1.5", "--floor"),
        ("--service-error 0", "--service-error"),
        ("--policy fiffo", "'fiffo' is not one of"),
        ("--plot timeline.gif", "does not end in .svg or .png"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_2_and_the_reason(trace: Path, arguments: str, words: str) -> None:
    result = verb(trace, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_trace_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    nowhere, other = tmp_path / "nowhere.csv", tmp_path / "other.csv"
    assert verb(nowhere).stderr == f"hermes: cannot read {nowhere}: No such file or directory\n"
    assert verb(tmp_path).stderr == f"hermes: cannot read {tmp_path}: Is a directory\n"
    other.write_text("a,b\n1,2\n")
    result = verb(other)
    assert (result.exit_code, "no column TIMESTAMP" in result.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--shares", "--tenants"])
def test_what_a_log_tells_cannot_be_said_otherwise(log: Path, option: str) -> None:
    result = verb(log, option, "2")
    assert (result.exit_code, result.stderr) == (2, f"hermes: {option}: an access log tells its own\n")


def test_a_picture_without_matplotlib_is_refused_in_one_line_that_names_the_extra(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "hermes.simulator.replay.plot", raising=False)
    result = verb(trace, "--plot", tmp_path / "picture.svg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "hermes: --plot needs matplotlib: pip install matplotlib\n"


def test_a_picture_is_drawn_beside_what_is_printed(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.svg"
    assert told(trace, "--plot", picture, "--seeds", 1) == told(trace, "--seeds", 1)
    assert "requests/s" in picture.read_text()
    result = verb(trace, "--plot", tmp_path / "nowhere" / "picture.png", "--seeds", 1)
    assert (result.exit_code, "cannot write" in result.stderr) == (1, True)


def test_the_page_explains_every_option_and_every_policy() -> None:
    command = cli.get_command(Context(cli), "replay")
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}" not in PAGE} == set()
    assert {policy for policy in POLICIES if f"| `{policy}` |" not in PAGE} == set()
    assert {key for key in KEYS if f"`{key}`" not in PAGE} == set()
