"""Whatever can be wrong with a class that is named, told before anything is served."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from hermes import composition
from hermes.config.build import build
from hermes.custom import found
from hermes.errors import ConfigError
from tests.custom.aviary import module, on_the_page

RIGHT = on_the_page("python")
BARE = """
from hermes.custom import Backend, Listing
class Bare(Backend):
    asks = ("/",)
    def listing(self, said): return Listing(())
    def render_request(self, request, model): return "/", b""
    def decoder(self, request, answer_id): return None
"""


def refusal(plugin: str) -> str:
    with pytest.raises(ConfigError) as refused:
        found.made(plugin)
    return str(refused.value)


def changed(before: str, after: str) -> str:
    assert before in BARE
    return BARE.replace(before, after)


@pytest.mark.parametrize(
    ("source", "named", "why"),
    [
        (BARE, "nest:Bear", "the module 'nest' has no class 'Bear'; it has: Bare"),
        (BARE, "nest.egg:Bare", "there is no module 'nest.egg'"),
        ("", "nest:Bare", "it has: none"),
        ("Bare = 7", "nest:Bare", "is not a class made from hermes.custom.Backend"),
        ("class Bare: pass", "nest:Bare", "is not a class made from hermes.custom.Backend"),
        (changed("def decoder", "def encoder"), "nest:Bare", "made: TypeError: Can't instantiate abstract class"),
        (changed('asks = ("/",)', "def __init__(self, key): pass"), "nest:Bare", "missing 1 required positional"),
        (changed('asks = ("/",)', "def __init__(self): raise SystemExit(3)"), "nest:Bare", "SystemExit: 3"),
        (changed('asks = ("/",)', ""), "nest:Bare", "what it `asks`"),
        (changed('("/",)', '"/"'), "nest:Bare", "what it `asks`"),
        (changed('("/",)', '("here",)'), "nest:Bare", "what it `asks`"),
        (changed('("/",)', "()"), "nest:Bare", "what it `asks`"),
        (changed('("/",)', '("/a b",)'), "nest:Bare", "what it `asks`"),
        (changed('("/",)', '("/",); slots = "many"'), "nest:Bare", "Bare.slots has to be a whole number"),
        (changed('("/",)', '("/",); slots = 0'), "nest:Bare", "Bare.slots has to be a whole number"),
        (changed('("/",)', '("/",); embeds = 1'), "nest:Bare", "Bare.embeds has to be True or False"),
        (changed("def listing", "async def listing"), "nest:Bare", "Bare.listing has to be a plain method"),
        (changed("(self, request, model)", "(self, request)"), "nest:Bare", "has to take (request, model)"),
        (changed("def listing(self, said): return", "listing = 7 #"), "nest:Bare", "has to be a plain method"),
    ],
)
def test_a_class_that_cannot_be_used_is_told_why(source: str, named: str, why: str) -> None:
    with module("nest", source):
        assert why in refusal(named)


def test_a_module_that_is_not_there_and_one_that_cannot_be_imported_are_told_apart(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hatched.py").write_text("import nowhere_at_all")
    (tmp_path / "cracked.py").write_text("def (")
    (tmp_path / "gone.py").write_text("import sys; sys.exit(1)")
    assert "there is no module 'nobody_has_this'" in (told := refusal("nobody_has_this:X")) and "PYTHONPATH" in told
    assert "there is no module 'nobody_has_this'" in refusal("nobody_has_this.below:X")
    assert "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'" in refusal("hatched:X")
    assert "cannot be imported: SyntaxError" in refusal("cracked:X")
    assert "cannot be imported: SystemExit" in refusal("gone:X")


def test_a_class_is_found_as_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("parrots", "nest:Parrots", found.GROUP), EntryPoint("broken", "nest:Nobody", found.GROUP)]
    monkeypatch.setattr(found, "entry_points", lambda group: points if group == found.GROUP else [])
    with module("nest", RIGHT):
        assert type(found.made("parrots")).__name__ == "Parrots"
        assert "'crows' is no entry point of the group hermes.backends, there are: parrots, broken" in refusal("crows")
        assert "the entry point 'broken' cannot be loaded: AttributeError" in refusal("broken")


def test_without_entry_points_it_is_told_what_else_may_be_named() -> None:
    assert "no package here has any; or name a module:Class" in refusal("crows")


def test_a_mistake_is_found_by_a_check_and_named_with_its_backend() -> None:
    config = build({"backends": [{"name": "b", "url": "http://b", "kind": "custom", "plugin": "nobody_has_this:X"}]})
    with pytest.raises(ConfigError, match=r"^backends\.b\.plugin: there is no module"):
        composition.check_files(config)
