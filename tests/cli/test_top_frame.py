"""What `hermes top` draws: pure, from what is seen to lines."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hermes.cli.top.frame import frame
from hermes.cli.top.sight import Memory, Model, Request
from hermes.cli.top.view import Order, View
from tests.cli.sights import GIB, drawn, sight


def test_a_picture_has_what_matters_in_80_by_24() -> None:
    lines = drawn(sight())
    assert [cell_len(line) for line in lines] == [80] * 24
    head, rates, tenants, memory, note, *_ = lines
    assert head.startswith("Hermes 0.1.0 at gpu.lan:4000") and "ok, up 3 h" in head
    assert rates.split("  ")[:5] == [
        "6 running",
        "14 waiting",
        "3.25 requests/s",
        "0.1 failed/s",
        "820 + 143 tokens/s",
    ]
    assert tenants.startswith("tokens in 10 min: editor 12,400  batch 810 ")
    assert memory.startswith("gpu0       up       [gemma") and memory.endswith("]  10.0/20.0 GiB")
    assert note.strip() == "loading qwen"
    assert lines[6].split() == ["gemma", "gpu0", "8.00", "GiB", "2/2", "1", "-", "12", "1.2", "s", "3", "min"]
    assert lines[9].split() == ["gemma", "editor", "normal", "runs", "on", "gpu0", "for", "1.0", "s", "r0"]
    assert "q: quit" in lines[-1]


def test_a_block_of_memory_is_as_wide_as_what_its_model_takes() -> None:
    def blocks(**sizes: int) -> list[int]:
        line = drawn(sight(memory=(Memory("g", "up", True, 43 * GIB, tuple(sizes.items()), ()),)))[3]
        return [len(block) + 1 for block in line.partition("[")[2].partition("]")[0].split("|")][:-1]

    assert blocks(gemma=20 * GIB, phi=10 * GIB) == [20, 10]
    assert blocks(tiny=1, small=2) == [1, 1]  # none is too small to be seen
    assert sum(blocks(gemma=40 * GIB, phi=40 * GIB)) == 43


texts = st.text(st.characters(codec=None), max_size=40)
counts = st.integers(0, 10**12)


@given(
    st.builds(
        Memory, texts, texts, st.booleans(), st.none() | counts, st.tuples(st.tuples(texts, counts)), st.tuples(texts)
    ),
    st.builds(
        Model,
        texts,
        texts,
        st.tuples(texts),
        counts,
        counts,
        counts,
        st.tuples(counts, counts, counts),
        st.none() | counts,
    ),
    st.builds(Request, texts, texts, texts, texts, st.booleans(), texts),
    st.integers(1, 200),
    st.integers(1, 60),
    texts,
)
def test_whatever_is_told_every_line_is_exactly_as_wide_as_the_terminal_and_drives_nothing(
    memory: Memory, model: Model, request: Request, width: int, height: int, lost: str
) -> None:
    seen = sight(memory=(memory,) * 3, models=(model,) * 3, requests=(request,) * 3, tenants=((request.user, 1),))
    for view in (View(), View(help=True), View(asking=Order("cancel", request.name), pane="models")):
        lines = drawn(seen, view, width, height, lost)
        assert [cell_len(line) for line in lines] == [width] * height
        assert not [each for line in lines for each in line if each < " " or "\x7f" <= each < "\xa0"]
        "".join(lines).encode()  # no halves of characters


def test_a_wide_name_takes_its_place_and_no_more() -> None:
    wide = Request("r1", "gemma", "batch", "日本語ユーザー", True, "waits as 12, 8.2 s to go")
    lines = drawn(sight(requests=(wide, *sight().requests)))
    assert cell_len(lines[9].partition("batch")[0]) == cell_len(lines[10].partition("normal")[0])
    assert "日本語ユー…" in lines[9]


def test_the_hostile_name_of_a_user_does_not_drive_the_terminal() -> None:
    hostile = Request("r1", "gemma", "normal", "\x1b[2J\x1b]0;x\x07\r\n\u202e", False, "runs")
    assert r"\x1b[2J\x" in drawn(sight(requests=(hostile,)))[9]


def test_the_end_of_an_id_that_we_made_is_shown_because_its_beginning_is_that_of_all() -> None:
    made = Request("3f6c0a9d1b52e87f4a0c10000042", "gemma", "normal", "me", False, "runs")
    assert drawn(sight(requests=(made,)))[9].endswith("  …10000042")


def test_what_is_lost_is_said_first_with_why_and_of_when_the_rest_is() -> None:
    assert drawn(sight(), lost="no Hermes answers")[0].startswith("LOST at ")
    assert "trying again: no Hermes answers" in drawn(sight(), lost="no Hermes answers")[0]


def test_where_there_is_not_room_for_all_each_backend_is_shown_and_what_is_chosen_is_among_the_rows() -> None:
    memory = tuple(Memory(f"gpu{number}", "up", True, GIB, (), ("a note", "another")) for number in range(6))
    models = tuple(Model(f"m{number}", "loaded") for number in range(30))
    requests = tuple(Request(f"r{number}", "m0", "normal", "me", True, "waits") for number in range(30))
    view = View(pane="models", chosen={"models": "m20", "requests": "r29"})
    lines = drawn(sight(memory=memory, models=models, requests=requests), view)
    assert [line.split()[0] for line in lines if line.startswith("gpu")] == [f"gpu{each}" for each in range(6)]
    assert any(line.startswith("m20 ") for line in lines) and any(line.endswith(" r29") for line in lines)
    everything = drawn(sight(memory=memory, models=models, requests=requests), height=None)
    assert len([line for line in everything if line.startswith("m")]) == 60


def test_only_the_chosen_row_of_the_pane_in_use_is_marked() -> None:
    def marked(view: View) -> list[str]:
        lines = frame(sight(), view, 80, 24, "here")
        return [line.plain.split()[0] for line in lines if any(span.style == "reverse" for span in line.spans)]

    assert marked(View(pane="models", chosen={"models": "phi"})) == ["phi"]
    assert marked(View(pane="requests")) == ["gemma"]  # the request for it
