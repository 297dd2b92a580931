"""The page in a real browser, from a file, without a network: what a reader can ask of it, and that nothing is cut."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeping import grid

from bench.results import rows
from reports import build

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ROWS = Path(__file__).parents[2] / "reports" / "example" / "rows.jsonl.gz"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
)
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
    "disable-sync", "no-first-run",
)  # fmt: skip
CENTRE = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER) and not os.environ.get("BENCH_REQUIRE_CHROMIUM"),
        reason="chromium and chromedriver are not installed",
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, and beside it a sweep with labels of an attacker."""
    out = tmp_path_factory.mktemp("report")
    real = rows.load(ROWS)
    axes = {"lr": ["1e-4", "1e-3"], "backbone": [HOSTILE, "ViT"]}
    mine = grid("mine", axes, (0, 1), lambda labels, seed: 0.5 + 0.01 * seed).assign(scale="mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "load", lambda folder: pd.concat([real, mine], ignore_index=True))
        (out / "runs").mkdir()
        assert build.main(["--runs", str(out / "runs"), "--out", str(out / "out")]) == 0
    return out / "out" / "index.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, page: Path) -> Any:
    """At the top of the page, 1,400 pixels wide."""
    sized(chromium, 1400)
    chromium.get("about:blank")
    chromium.get(page.as_uri())
    return chromium


def sized(browser: Any, width: int) -> None:
    about = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", about)


def all_of(browser: Any, selector: str) -> list[WebElement]:
    return list(browser.find_elements(By.CSS_SELECTOR, selector))


def seen(browser: Any, selector: str) -> list[str]:
    return [element.text for element in all_of(browser, selector) if element.is_displayed()]


def chosen(browser: Any, name: str) -> Select:
    (label,) = [e for e in all_of(browser, "#filters label") if e.text.startswith(name)]
    return Select(label.find_element(By.TAG_NAME, "select"))


def test_nothing_is_asked_of_a_network_and_nothing_fails(browser: Any) -> None:
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:", "about:", "chrome:")) for url in asked)
    assert browser.title == "Time matters: results"  # no label has run a script
    shown = [e.get_attribute("textContent") for e in all_of(browser, "#mine th[scope=row]")]
    assert HOSTILE in shown


def test_rows_are_filtered_and_the_address_remembers(browser: Any) -> None:
    chosen(browser, "Backbone").select_by_visible_text("X-ViT")
    kept = [
        json.loads(row.get_attribute("data-labels"))
        for row in all_of(browser, "tr[data-labels]:not([hidden])")
    ]
    assert {labels["Backbone"] for labels in kept if "Backbone" in labels} == {"X-ViT"}
    assert "Background shift" not in seen(browser, "article h3")  # which has no such row
    (count,) = seen(browser, "#filters output")
    assert " of " in count
    browser.refresh()
    assert chosen(browser, "Backbone").first_selected_option.text == "X-ViT"
    browser.find_element(By.CSS_SELECTOR, "#filters > button").click()
    assert "Background shift" in seen(browser, "article h3")


def test_a_scale_is_chosen(browser: Any) -> None:
    chosen(browser, "Scale").select_by_visible_text("scale mine")
    assert [e.get_attribute("id") for e in all_of(browser, "section") if e.is_displayed()] == [
        "mine"
    ]


def test_a_column_sorts_up_down_and_back(browser: Any) -> None:
    table = browser.find_element(By.ID, "mini/main_result").find_element(
        By.XPATH, "following::table[1]"
    )
    head = table.find_element(By.CSS_SELECTOR, "th[data-column^='Top-1']")
    column = (
        "return [...arguments[0].tBodies[0].rows].map((row) => Number(row.cells[3].dataset.value))"
    )
    browser.execute_script(CENTRE, table)
    as_it_was = browser.execute_script(column, table)
    head.find_element(By.TAG_NAME, "button").click()
    assert browser.execute_script(column, table) == sorted(as_it_was) != as_it_was
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert browser.execute_script(column, table) == sorted(as_it_was, reverse=True)
    head.find_element(By.TAG_NAME, "button").click()
    assert browser.execute_script(column, table) == as_it_was and not head.get_attribute(
        "aria-sort"
    )


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_number_says_what_is_behind_it(browser: Any, by: str) -> None:
    rows_of = all_of(browser, "article tr[data-labels]")
    row = next(r for r in rows_of if r.get_attribute("data-labels").count("+ TIME"))
    number = row.find_element(By.CSS_SELECTOR, "button.number")
    browser.execute_script(CENTRE, number)
    if by == "mouse":
        number.click()
    else:
        number.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "asked")
    WebDriverWait(browser, 20).until(lambda _: dialog.is_displayed())
    said = dialog.text
    for what in ("seed 0:", "95 % interval", "Code", "Device", "Started", "python -m bench.sweep"):
        assert what in said, what
    assert "objectives.video.order.weight: absent → 1.0" in said  # from the baseline's config
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == number


def test_a_figure_opens_in_full_size(browser: Any) -> None:
    picture = all_of(browser, "button.picture")[0]
    browser.execute_script(CENTRE, picture)
    picture.send_keys(Keys.ENTER)
    image = browser.find_element(By.CSS_SELECTOR, "#asked img")
    assert image.is_displayed()
    full = browser.execute_script("return [arguments[0].width, arguments[0].naturalWidth]", image)
    assert full[0] == full[1] > 800


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut_and_all_can_be_read(browser: Any, width: int) -> None:
    """The page is as wide as the window; what is wider scrolls within it, is reached by keyboard, and says so."""
    sized(browser, width)
    browser.refresh()
    wide, boxes, small = browser.execute_script(
        """
        const boxes = [...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1);
        const letters = [...document.querySelectorAll('main *, header *')].filter((node) => (
          node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())));
        return [document.documentElement.scrollWidth,
                boxes.map((box) => [box.tabIndex, box.classList.contains('more')]),
                letters.filter((node) => parseFloat(getComputedStyle(node).fontSize) < 10
                                          && !node.closest('sup')).map((node) => node.outerHTML.slice(0, 80))];
        """
    )
    assert wide <= width
    assert all(box == [0, True] for box in boxes)
    assert not small
    if width == 1400:
        assert not boxes


def test_print_has_every_column(browser: Any, tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler-utils) is not installed")
    document = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    path = tmp_path / "page.pdf"
    path.write_bytes(base64.b64decode(document["data"]))
    text = subprocess.run(
        ["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True
    ).stdout
    row = next(line for line in text.splitlines() if "69.7" in line and "TimeSformer" in line)
    table = json.loads(
        (Path(browser.current_url[7:]).parent / "mini" / "temporal_static.json").read_text()
    )
    numbers = [cell["text"].split(" ")[0] for cell in table["rows"][0]["cells"][1:]]
    assert all(number in row for number in numbers), row


def test_the_page_of_the_example_is_small(page: Path) -> None:
    assert page.stat().st_size < 2_000_000
