"""The reports in a real browser: sorted, filtered, without a console error and without a request to anywhere."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from raymia.evaluation.factors import ALL, FactorAnalysis, FactorRow
from raymia.evaluation.intervals import Interval
from raymia.evaluation.measures.base import measures
from raymia.evaluation.metrics import evaluate_table
from raymia.report.page import render
from raymia.report.plots import run_figures
from raymia.report.sweep_page import write_sweep_report
from raymia.run.ledger import Ledger
from raymia.run.sweep import Factor
from tests.browsing import assert_fits, assert_quiet, open_page, seen_by
from tests.evaluation.test_metrics import table_of


def first_column(table: WebElement) -> list[str]:
    return [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody th") if row.is_displayed()]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = table_of()
    table["pokemon"] = table["random"] + 0.6 * table["member"]
    table["loss.t=100"], table["loss.t=200"] = table["loss"] - 1.0, table["loss"] + 1.0
    access = dict.fromkeys(("loss", "loss.t=100", "loss.t=200"), "grey") | {"pokemon": "black", "random": "control"}
    evaluation = evaluate_table(table, title="<img src=x onerror=alert(1)> against a model", access=access)
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(evaluation, run_figures(evaluation)))
    return path


def test_a_click_sorts_the_table_by_number_and_again_the_other_way(browser: webdriver.Chrome, report: Path) -> None:
    open_page(browser, report)
    table = browser.find_element(By.CSS_SELECTOR, "table.sortable")
    before = first_column(table)
    assert {"loss", "pokemon", "random", "blind.caption"} <= set(before)
    heading = next(
        h for h in table.find_elements(By.CSS_SELECTOR, "thead th") if h.text.startswith("AUC") and "over" not in h.text
    )
    heading.find_element(By.TAG_NAME, "button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert first_column(table) == before[::-1]
    name = table.find_element(By.CSS_SELECTOR, "thead th button")
    name.send_keys(Keys.ENTER)
    assert first_column(table) == sorted(before, reverse=True)
    assert heading.get_attribute("aria-sort") is None
    assert_quiet(browser)


def test_the_filter_hides_the_rows_of_an_access_and_says_how_many_are_left(browser: webdriver.Chrome, report: Path) -> None:
    open_page(browser, report)
    part = browser.find_element(By.CSS_SELECTOR, "fieldset.filter").find_element(By.XPATH, "..")
    table = part.find_element(By.TAG_NAME, "table")
    before = first_column(table)
    part.find_element(By.CSS_SELECTOR, "input[value=black]").click()
    after = first_column(table)
    assert set(before) - set(after) == {"pokemon"}
    assert part.find_element(By.TAG_NAME, "output").text == f"{len(after)} of {len(before)} signals shown"
    assert_quiet(browser)


def test_markup_in_the_data_is_text_and_every_figure_is_drawn(browser: webdriver.Chrome, report: Path) -> None:
    open_page(browser, report)
    assert browser.find_element(By.CSS_SELECTOR, "header p").text == "<img src=x onerror=alert(1)> against a model"
    assert browser.find_elements(By.CSS_SELECTOR, "header img") == []
    figures = browser.find_elements(By.CSS_SELECTOR, "figure[role=img] svg")
    assert len(figures) >= 6
    assert all(f.find_element(By.XPATH, "..").get_attribute("aria-label") for f in figures)
    assert_quiet(browser)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_colour_scheme(
    browser: webdriver.Chrome, report: Path, width: int, scheme: str
) -> None:
    seen_by(browser, width, scheme)
    open_page(browser, report)
    assert_fits(browser, width)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    paper, ink = (browser.execute_script(style, "body", name) for name in ("backgroundColor", "color"))  # type: ignore[no-untyped-call]
    assert (sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (scheme == "light")
    assert_quiet(browser)


def test_the_report_of_a_sweep_sorts_and_is_quiet(browser: webdriver.Chrome, tmp_path: Path) -> None:
    rows = [
        FactorRow(
            attack=attack,
            signal=attack,
            point={"replica.resolution_px": side, "attacks.loss.timesteps": timesteps},
            forwards=5 * len(timesteps),
            stratum=stratum,
            n_members=50,
            n_non_members=50,
            measures={measure.name: Interval(value=value, low=value - 0.1, high=value + 0.1) for measure in measures()},
        )
        for attack, value in (("loss", 0.8), ("pia", 0.6))
        for side in (32, 64)
        for timesteps in ([100], [100, 200])
        for stratum in (ALL, "below 70 px", "70 px and more")
    ]
    factors = [
        Factor(field="replica.resolution_px", values=[32, 64]),
        Factor(field="attacks.loss.timesteps", values=[[100], [100, 200]]),
    ]
    base = {factor.field: factor.values[0] for factor in factors}
    strata = ["below 70 px", "70 px and more"]
    analysis = FactorAnalysis(factors=factors, base=base, strata=strata, rows=rows, runs=["cells/a"])
    write_sweep_report(Ledger(str(tmp_path)), analysis, "<b>job</b>.yaml")
    open_page(browser, tmp_path / "report" / "index.html")
    assert browser.find_element(By.CSS_SELECTOR, "header p").text == "<b>job</b>.yaml"
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 2 * 3 + 2 + 1
    table = browser.find_element(By.CSS_SELECTOR, "table.sortable")
    table.find_element(By.CSS_SELECTOR, "thead th button").click()
    assert first_column(table) == ["pia"] * 12 + ["loss"] * 12
    assert_quiet(browser)
    assert len(pd.read_csv(tmp_path / "report" / "tables" / "factors.csv")) == 24
