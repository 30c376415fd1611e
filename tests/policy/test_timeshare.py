"""A backend's time: one tenant's endless backlog does not keep the memory from everybody else's models."""

from random import Random

import pytest
from msgspec.structs import replace

from hermes.policy.scheduler import Scheduler
from hermes.policy.site import Site
from hermes.policy.ticket import Bounds, Class, ClassRules, Rules, Ticket
from hermes.policy.timeshare import WINDOW_S, Timeshare
from tests.policy.box import UNBOUNDED, Job, Play, facts, scheduler, ticket

SERVER = Rules((ClassRules(16.0, 30.0), ClassRules(4.0, 120.0), ClassRules(1.0)), floor=0.5, load_waits=2.0)
BOUNDS = Bounds(None, 4096, tenant_tickets=4096)


def share_served(
    script: Class,
    editor: Class,
    every_s: float,
    rules: Rules = SERVER,
    tenants: tuple[str, str] = ("script", "editor"),
    also: float = 0.0,
) -> tuple[float, float]:
    """Of an editor's requests, and of a script's beside it: two a second, for a model that can serve 0.8.

    There is memory for one model; a load takes 6 s, and the editor's model is another, for which the script asks too,
    `also` times a second. Over half an hour.
    """
    draw, jobs, now = Random(1), [], 0.0
    for model, rate in ("a", 2.0), ("b", also):
        while rate and now < 1800.0:
            now += draw.expovariate(rate)
            flood = ticket(model, now, tenant=tenants[0], urgency=script, deadline=now + 600.0, prompt_tokens=500)
            jobs.append(Job(flood, 200, draw.uniform(3.0, 7.0)))
        now = 0.0
    now = 5.0
    while now < 1800.0:
        now += draw.expovariate(1 / every_s)
        asked = ticket("b", now, tenant=tenants[1], urgency=editor, deadline=now + 120.0, prompt_tokens=500)
        jobs.append(Job(asked, 100, draw.uniform(1.0, 3.0)))
    core = scheduler(facts(loaded="a", memory=5, slots=4), rules=rules, bounds=BOUNDS)
    played = Play(core, sorted(jobs, key=lambda job: job.ticket.arrived_at), load_s=6.0).to_the_end()
    served = [(run.job.ticket.model, run.job.ticket.tenant) for run in played.runs]
    asked_for = [(job.ticket.model, job.ticket.tenant) for job in jobs]

    def part(model: str, tenant: str) -> float:
        return served.count((model, tenant)) / asked_for.count((model, tenant))

    return part("b", tenants[1]), part("a", tenants[0])


@pytest.mark.parametrize("editor", [Class.INTERACTIVE, Class.NORMAL])
@pytest.mark.parametrize("script", [Class.NORMAL, Class.BATCH])
def test_an_editor_is_served_beside_a_script_that_floods_another_model(script: Class, editor: Class) -> None:
    of_editor, of_script = share_served(script, editor, every_s=60.0)
    assert of_editor >= 0.95
    assert of_script >= 0.6 * 0.4  # of which there is capacity for 0.4


@pytest.mark.parametrize("also", [0.1, 0.3, 1.0])
def test_an_editor_is_served_though_the_script_waits_for_its_model_too(also: float) -> None:
    """The script's wait longer, so they must start first; it is not them that a swap is owed."""
    assert share_served(Class.NORMAL, Class.INTERACTIVE, 60.0, also=also)[0] >= 0.95


@pytest.mark.parametrize(("every_s", "least"), [(30.0, 0.8), (60.0, 0.95)])
def test_where_nobody_tells_a_script_from_an_editor_their_models_do(every_s: float, least: float) -> None:
    """Without keys everybody is one tenant."""
    of_editor, of_script = share_served(Class.NORMAL, Class.NORMAL, every_s, tenants=("all", "all"))
    assert of_editor >= least
    assert of_script >= 0.7 * 0.4


def test_without_a_floor_the_flood_keeps_the_memory() -> None:
    assert share_served(Class.NORMAL, Class.INTERACTIVE, 60.0, replace(SERVER, floor=0.0))[0] < 0.2


def test_who_asks_for_more_than_half_of_its_share_pays_for_its_swaps_and_the_others_go_on() -> None:
    """Each swap takes about 20 s: one in 10 s would take all the time that there is."""
    of_editor, of_script = share_served(Class.NORMAL, Class.NORMAL, every_s=10.0)
    assert 0.3 <= of_editor <= 0.9
    assert of_script >= 0.5 * 0.4


def swap_for_an_editor() -> tuple[Scheduler, Ticket, Site]:
    """It waits for a swap at 2.0, for which four runs have to end."""
    core = scheduler(facts(loaded="a", memory=5, slots=4), rules=SERVER, bounds=UNBOUNDED)
    for number in range(200):
        core.offer(ticket("a", number / 100, tenant="script"), number / 100)
    asked = ticket("b", 2.0, tenant="editor")
    core.offer(asked, 2.0)
    site = core._residency.sites["x"]
    assert site.plan is not None and site.plan.payer is asked
    return core, asked, site


def paid_s(site: Site) -> float:
    return sum(
        spent_s for (_, tenant), (spent_s, _, _) in site.timeshare._of_tenants.by_party.items() if tenant == "editor"
    )


def test_a_swap_for_who_is_owed_time_is_paid_for_with_the_time_it_takes() -> None:
    core, _, site = swap_for_an_editor()
    for run in list(site.stays["a"].running):
        core.finish(run, 4.0)
    core.loaded("x", "b", 14.0)
    assert paid_s(site) == 4 * 10.0  # its load; what it takes to load the other again is not known yet


def test_a_load_that_fails_is_paid_for_too() -> None:
    core, _, site = swap_for_an_editor()
    for run in list(site.stays["a"].running):
        core.finish(run, 4.0)
    core.failed("x", "b", "out of memory", 5.0)
    core.failed("x", "b", "out of memory", 14.0)
    assert paid_s(site) == 4 * 9.0


def test_who_leaves_before_its_swap_pays_for_the_slots_that_were_kept_free_for_it() -> None:
    core, asked, site = swap_for_an_editor()
    for run in list(site.stays["a"].running)[:3]:
        core.finish(run, 4.0)
    core.cancel(asked, 7.0)
    assert site.plan is None
    assert paid_s(site) == 3 * 5.0


def test_who_is_owed_time_gets_its_swap_also_behind_who_floods_that_model_too() -> None:
    core = scheduler(facts(loaded="a", memory=5, slots=4), rules=SERVER, bounds=UNBOUNDED)
    for number in range(200):
        core.offer(ticket("a", number / 100, tenant="script"), number / 100)
    site = core._residency.sites["x"]
    for run in list(site.stays["a"].running):
        core.finish(run, 40.0)
    core.offer(ticket("b", 41.0, tenant="script", deadline=50.0), 41.0)
    assert site.plan is None  # when the others have ended, its time is over
    core.offer(ticket("b", 42.0, tenant="editor"), 42.0)
    assert site.plan is not None and site.plan.payer is not None and site.plan.payer.tenant == "editor"


# --- the sums ---------------------------------------------------------------------------------------------------------

A, B, C = (ticket("m", tenant=name) for name in "abc")


def test_who_has_had_less_than_its_part_of_a_fair_share_is_owed_time() -> None:
    spent = Timeshare()
    spent.spend(A, 1.0, 80.0, 0.0)
    spent.spend(B, 1.0, 20.0, 0.0)
    assert spent.balance(0.0).owes(B, 1.0, 0.5)
    assert spent.balance(0.0).owes(C, 1.0, 0.5)
    assert not spent.balance(0.0).owes(A, 1.0, 0.5)
    spent.spend(B, 1.0, 10.0, 0.0)
    assert not spent.balance(0.0).owes(B, 1.0, 0.5)  # 30 of 110, and a half of a half is 27.5
    assert spent.balance(0.0).owes(B, 4.0, 0.5)  # its part of four fifths is 44


def test_time_that_was_spent_long_ago_is_forgotten() -> None:
    spent = Timeshare()
    spent.spend(A, 1.0, 100.0, 0.0)
    spent.spend(B, 1.0, 50.0, 3 * WINDOW_S)
    assert spent.balance(3 * WINDOW_S).owes(A, 1.0, 0.5)
    assert not spent.balance(3 * WINDOW_S).owes(B, 1.0, 0.5)


def test_nobody_is_owed_time_of_a_backend_that_was_used_by_nobody_else() -> None:
    spent = Timeshare()
    spent.spend(A, 1.0, 100.0, 0.0)
    assert not spent.balance(0.0).owes(A, 1.0, 0.5)


def test_a_model_is_owed_by_the_square_of_its_share_of_its_classs_time_and_nothing_of_anothers() -> None:
    spent, x, y = Timeshare(), ticket("x"), ticket("y")
    spent.spend(x, 1.0, 90.0, 0.0)
    spent.spend(y, 1.0, 10.0, 0.0)
    assert spent.balance(0.0).owes(y, 1.0, 0.5)
    spent.spend(y, 1.0, 5.0, 0.0)
    assert not spent.balance(0.0).owes(y, 1.0, 0.5)  # 15 of 105, and a half of a quarter is 13
    job = ticket("z", urgency=Class.BATCH)
    spent.spend(job, 1.0, 20.0, 0.0)
    assert not spent.balance(0.0).owes(job, 1 / 16, 0.5)


def test_of_tenants_without_number_only_the_last_are_kept() -> None:
    spent = Timeshare()
    for number in range(1000):
        spent.spend(ticket("m", tenant=str(number)), 1.0, 1.0, 0.0)
    kept = spent._of_tenants.by_party
    assert len(kept) == 256 and (Class.NORMAL, "999") in kept
