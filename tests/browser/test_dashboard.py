"""What people do with the dashboard, done in a real browser, and what it looks like meanwhile: `make browser` (I22)."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.stage import Stage, stage

pytestmark = pytest.mark.skipif(not os.environ.get("HERMES_BROWSER"), reason="make browser runs it")
webdriver = pytest.importorskip("selenium.webdriver")

SHOTS = Path(__file__).with_name("shots")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
DRIVER = os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--lang=en",
)
LIMIT_S = 20.0
SWAPPING = {"gemma": 5, "qwen3": 3, "mistral": 2, "llama3.2": 2}
WATCHING = """
window.violations = [];
addEventListener("securitypolicyviolation", ({ violatedDirective: by, blockedURI: of }) => violations.push(by + of));
"""
# What the browser says of what is meant so: a key is asked for; Hermes restarts; a pull that fails breaks off.
MEANT = re.compile(r"401 \(Unauthorized\)|/v1/\S+ - Failed to load resource: net::ERR_").search
NOWHERE = "\N{EN DASH}"
MARKUP = "<img src=x onerror=document.title='markup'>"


class Browser:
    """Chromium, and what it looks at."""

    def __init__(self, url: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.url = url
        self._do("Page.addScriptToEvaluateOnNewDocument", source=WATCHING)
        self.look(1400, 1100)

    def _do(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        phone = width < 600
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, view: str = "now") -> None:
        self.driver.get(f"{self.url}/dashboard#{view}")

    def go(self, view: str) -> None:
        self.one(f'nav a[href="#{view}"]').click()

    def all(self, what: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", what))

    def one(self, what: str) -> Any:
        """The first that is there, once it is."""
        self.until(lambda: self.all(what), what)
        return self.all(what)[0]

    def texts(self, what: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)", what))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any], what: str = "it did not come true") -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.texts('main')} {self.complaints()}"
            time.sleep(0.05)

    def shoot(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the console has against the page, and what its policy has kept from happening."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        return said + list(self.run("return window.violations ?? []"))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("busy")) as found:
        yield found


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    keys = [
        {"user": user, "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest(), **more}
        for name, user, more in (
            ("ops", "ops", {"admin": True}),
            ("ann", "ann", {"models": ["gemma", "qwen3"], "daily_tokens": 1000, "rpm": 600}),
            ("bob", MARKUP, {}),
        )
    ]
    with stage(tmp_path_factory.mktemp("keyed"), keys=keys) as found:
        yield found


@pytest.fixture
def page(busy: Stage) -> Iterator[Browser]:
    yield from looking(busy)


@pytest.fixture
def locked(keyed: Stage) -> Iterator[Browser]:
    yield from looking(keyed)


def looking(at: Stage) -> Iterator[Browser]:
    browser = Browser(at.url)
    try:
        yield browser
        unexpected = [each for each in browser.complaints() if not MEANT(each)]
        assert not unexpected and browser.driver.title == "Hermes"
    finally:
        browser.driver.quit()


def asked(stage: Stage, text: str, model: str = "qwen3", key: str = "") -> Callable[[], Any]:
    """A request that runs beside the test; calling what is returned waits for its answer."""
    told: list[Any] = []
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    thread = threading.Thread(target=lambda: told.append(stage.ask("/v1/chat/completions", body, **headers)))
    thread.start()

    def answer() -> Any:
        thread.join(LIMIT_S)
        return told[0]

    return answer


# --- what people do ---------------------------------------------------------------------------------------------------


def test_a_request_that_runs_is_seen_and_can_be_sent_away(busy: Stage, page: Browser) -> None:
    page.open()
    answer = asked(busy, "[[tokens:5000]] Go on for ever.")
    page.one("table.open tr.running button").click()
    assert answer() == 499
    page.until(lambda: not page.all("table.open tr"), "it is still there")
    page.until(lambda: "cancelled" in page.texts("#view-now .outcome"), "nobody is told")


def test_a_model_is_pulled_and_its_progress_is_seen(page: Browser) -> None:
    page.open("models")
    page.one(".pull input").send_keys("all-minilm")
    page.one(".pull button").click()
    page.one(".pulls progress")
    page.one(".pulls .done")
    assert "is here, and loaded" in page.texts(".pulls li")[0]
    page.until(lambda: any("all-minilm" in row for row in page.texts(".models tr")), "it is not listed")
    page.one(".pull input").send_keys("nobody/has:this")
    page.one(".pull button").click()
    page.one(".pulls .bad")


def test_a_model_is_loaded_and_unloaded(page: Browser) -> None:
    page.open("models")
    page.until(lambda: any("mistral" in row for row in page.texts(".models tr")))

    def row() -> Any:
        return next(row for row in page.all(".models tbody tr") if "mistral" in row.text)

    for word, then in (("Load", "gpu0"), ("Unload", NOWHERE)):
        page.until(lambda word=word: row().find_element("tag name", "button").text == word, word)
        row().find_element("tag name", "button").click()
        page.until(lambda then=then: then in row().text and "loading" not in row().text, then)


def test_the_playground_streams_an_answer_and_tells_how_it_went(page: Browser) -> None:
    page.open("play")
    page.until(lambda: "gemma" in page.texts("#view-play option"))
    for option in page.all("#view-play option"):
        if option.text == "gemma":
            option.click()
    page.one("#view-play textarea").send_keys("[[tokens:150]] Explain relativity <b>boldly</b>.")
    page.one("#view-play button.primary").click()
    seen = set[int]()

    def length() -> int:
        seen.add(len(page.texts(".said p")[0]) if page.texts(".said p") else 0)
        return len(seen)

    page.until(lambda: length() > 5, "it does not come piece by piece")
    page.until(lambda: "a second" in page.texts(".said small")[-1], "it did not end")
    assert "<b>boldly</b>" in page.texts(".said.mine")[0]
    page.one("#view-play textarea").send_keys("[[tokens:3000]] And again.")
    page.one("#view-play button.primary").click()
    page.until(lambda: len(page.texts(".said p")) > 1 and page.texts(".said p")[1], "no second answer")
    page.all("#view-play form button")[1].click()
    page.until(lambda: page.texts(".said small")[-1] == "stopped")


def test_a_new_conversation_knows_nothing_of_the_answer_that_it_broke_off(page: Browser) -> None:
    page.open("play")
    page.until(lambda: "gemma" in page.texts("#view-play option"))
    page.run("const whole = fetch; window.sent = []; window.fetch = (...of) => (sent.push(of[1].body), whole(...of))")
    page.one("#view-play textarea").send_keys("[[tokens:3000]] Tell it.")
    page.one("#view-play button.primary").click()
    page.until(lambda: any(page.texts(".said p")), "no answer")
    page.all("#view-play form button")[2].click()
    page.until(lambda: page.one("#view-play button.primary").is_enabled())
    page.one("#view-play textarea").send_keys("[[tokens:5]] Anew.")
    page.one("#view-play button.primary").click()
    page.until(lambda: any(page.texts(".said p")), "no answer")
    (sent,) = page.run("return sent.filter((body) => body?.includes('Anew')).map((body) => JSON.parse(body).messages)")
    assert sent == [{"role": "user", "content": "[[tokens:5]] Anew."}]


def test_a_usage_that_is_told_in_part_is_said_to_be(page: Browser) -> None:
    page.open("usage")
    page.until(lambda: page.texts("#view-usage .empty"))
    said = "leave out the oldest"
    assert not any(said in text for text in page.texts("#view-usage .empty:not([hidden])"))
    part = "{object: 'list', data: [], keys: [], has_more: true}"
    page.run(f"window.fetch = async () => new Response(JSON.stringify({part}))")
    page.go("now")
    page.go("usage")
    page.until(lambda: any(said in text for text in page.texts("#view-usage .empty:not([hidden])")))


def test_a_click_tells_why_a_request_waited(busy: Stage, page: Browser) -> None:
    answers = [asked(busy, "[[tokens:60]] Hi") for _ in range(4)]
    assert all(answer()["usage"]["completion_tokens"] for answer in answers)
    page.open("requests")
    page.until(lambda: len(page.all("#view-requests tr.request")) >= 4)
    page.one("#view-requests tr.request").click()
    page.one("tr.more dl")
    assert "no. " in page.texts("tr.more")[0] and "in memory then" in page.texts("tr.more")[0]
    page.one("#view-requests tr.request").click()
    page.until(lambda: not page.all("tr.more"))


def test_when_hermes_comes_again_so_does_what_is_seen(busy: Stage, page: Browser) -> None:
    page.open()
    page.until(lambda: page.texts("#state") == ["serving"])
    busy.stop()
    page.until(lambda: page.texts("#state") == ["not connected"])
    busy.start()
    page.until(lambda: page.texts("#state") == ["serving"])
    assert asked(busy, "[[tokens:20]] Hi", "gemma")()["usage"]
    page.until(lambda: page.texts("#view-now tr.request"), "what has ended since is not seen")


# --- keys -------------------------------------------------------------------------------------------------------------


def give(page: Browser, key: str) -> None:
    page.until(lambda: page.run("return document.getElementById('ask').open"), "nobody asks for a key")
    page.one("#ask-key").send_keys(key)
    page.one("#ask button").click()


def test_it_asks_for_a_key_until_one_is_good_and_keeps_it_in_the_tab(locked: Browser) -> None:
    """I17: nowhere else."""
    locked.open()
    give(locked, "sk-wrong")
    locked.until(lambda: "Incorrect API key" in (locked.texts("#ask-why") or [""])[0], "it does not say why")
    give(locked, "sk-ops")
    locked.until(lambda: locked.texts("#state") == ["serving"], "it is not let in")
    assert "ops (operator)" in locked.texts("#about")[0]
    assert locked.run("return [localStorage.length, document.cookie, location.search]") == [0, "", ""]
    assert "sk-ops" not in locked.driver.page_source
    locked.driver.refresh()
    locked.until(lambda: locked.texts("#state") == ["serving"], "it has forgotten its key")
    locked.one("#key").click()
    locked.until(lambda: locked.run("return document.getElementById('ask').open"), "it has not forgotten its key")


def test_who_is_no_operator_sees_his_own_and_nothing_to_press(keyed: Stage, locked: Browser) -> None:
    """I21"""
    for key in ("ann", "bob"):
        assert asked(keyed, "[[tokens:30]] Hi", "gemma", f"sk-{key}")()["usage"]
    locked.open()
    give(locked, "sk-ann")
    locked.until(lambda: locked.texts("#state") == ["serving"])
    locked.until(lambda: len(locked.all("#view-now tr.request")) == 1)
    assert not locked.one(".charts").is_displayed()
    locked.go("models")
    locked.until(lambda: len(locked.all(".models tbody tr")) == 2)
    assert not any(button.is_displayed() for button in locked.all("#view-models button"))
    locked.go("usage")
    locked.until(lambda: any("% of 1,000 a day" in row for row in locked.texts(".usage tr")), "no limits")
    assert len(locked.all(".usage tbody tr")) == 1


def test_what_people_call_themselves_is_text(keyed: Stage, locked: Browser) -> None:
    """I22"""
    assert asked(keyed, "[[tokens:30]] Hi", "gemma", "sk-bob")()["usage"]
    locked.open("requests")
    give(locked, "sk-ops")
    locked.until(lambda: any(MARKUP in row for row in locked.texts("tr.request")), "it is not told as it is")
    assert not locked.all("main img")


# --- on a phone -------------------------------------------------------------------------------------------------------

CUT = """
return [...document.querySelectorAll(arguments[0])].filter((each) =>
  each.scrollWidth > each.clientWidth || each.getBoundingClientRect().right > innerWidth).map((each) => each.innerText)
"""


def test_a_phone_shows_what_runs_without_cutting_or_overlapping_it(busy: Stage, page: Browser) -> None:
    page.look(390, 844)
    page.open()
    answer = asked(busy, "[[tokens:5000]] Go on for ever.")
    page.until(lambda: any("on gpu0" in row for row in page.texts("table.open tr.running .what")), "it does not run")
    assert page.run(CUT, "table.open td") == []
    page.one("table.open tr.running button").click()
    assert answer() == 499
    assert page.texts("h2")[2] == "Last 10 minutes"


def test_usage_names_keys_and_shows_their_limits_on_a_phone_too(keyed: Stage, locked: Browser) -> None:
    locked.open("usage")
    give(locked, "sk-ops")
    for width in (1280, 390):
        locked.look(width, 844)
        locked.until(lambda: len(locked.all(".usage tbody tr")) == 3)
        assert locked.run(CUT, ".usage td") == [], width
        assert any("600 requests/min" in row for row in locked.texts(".usage td.limits"))


# --- what it looks like -----------------------------------------------------------------------------------------------


def test_under_load_nothing_jumps_overflows_or_complains_and_this_is_how_it_looks(busy: Stage, page: Browser) -> None:
    busy.load(SWAPPING, clients=9)
    page.open()
    page.until(lambda: page.all(".bar.load") and page.all("tr.waiting") and "down" in page.texts(".pill"), "no swap")
    page.until(lambda: len(page.all(".time")) >= len(SWAPPING), "not every model has been loaded")
    time.sleep(float(os.environ.get("HERMES_BROWSER_S", 12)))

    def places() -> Any:
        return page.run("return [...document.querySelectorAll('h2')].map((each) => each.getBoundingClientRect().top)")

    before = places()
    for _ in range(20):
        time.sleep(0.1)
        assert places() == before, "what is below moves when what is above changes"
    page.until(lambda: "in place of" in " ".join(page.texts(".notes")), "no swap is seen")
    page.shoot("light")
    page.look(1400, 1100, dark=True)
    page.shoot("dark")
    for view in ("requests", "models", "usage", "play"):
        page.go(view)
        time.sleep(1.2)
        page.shoot(f"dark-{view}")
    page.look(390, 844)
    for view in ("now", "requests", "models", "usage", "play"):
        page.go(view)
        time.sleep(1.2)
        assert page.run("return document.documentElement.scrollWidth") <= 390, view
        page.shoot(f"phone-{view}")
    busy.rest()
