"""docs/simulator.md says what the code does."""

import re
from pathlib import Path

from hermes.simulator import DEFAULT_MODELS, SimulatorConfig, parse_model
from hermes.simulator.faults import KINDS
from hermes.simulator.models import REGISTRY

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def table(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[row[0].strip("`"), *(cell.strip(" |") for cell in row[1:])] for row in rows]


def test_every_fault_is_explained_as_the_code_has_it() -> None:
    assert {row[0]: row[1] for row in table("Faults")} == KINDS


def test_every_setting_is_explained() -> None:
    assert [row[0] for row in table("Settings")] == list(SimulatorConfig.__struct_fields__)


def test_every_part_of_a_model_s_spec_can_be_said() -> None:
    values = {"memory": "1GiB", "can": "completion"}
    for part, *_ in table("Models"):
        parse_model(f"gemma={part}={values.get(part, '7')}")


def test_every_model_is_named() -> None:
    for model in (*DEFAULT_MODELS, *REGISTRY):
        assert f"`{model.name}`" in PAGE


def test_the_example_spec_is_one() -> None:
    (spec,) = re.findall(r"--model (\S+)`", PAGE)
    assert parse_model(spec).slots == 4
