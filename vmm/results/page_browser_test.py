#!/usr/bin/python3
"""Opens pages of `quire report` in a browser without a network: at two sizes, in light and dark.

What the pages show is compared with what this file computes from results.jsonl itself: of results made up, of the experiments
in experiments/, carried out with small guests, and of directories of results that are named. Screenshots go to the test's
outputs. usage: page_browser_test.py QUIRE [DIR...]
"""

import base64
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

# Bazel runs tests where their data is.
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), "vmm/results"]
import example_results

ADVICE = "tools/dev setup installs what tests need"
CHROMIUM, CHROMEDRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
SIZES = {"laptop": (1280, 800, 1, False), "phone": (390, 844, 2, True)}
SCHEMES = ("light", "dark")
QUIRE, DIRECTORIES = None, []

# What experiments/NAME.toml is to do in place of its own section [quick].
SHRUNK = {
    "overcommit": """
[quick]
repetitions = 2
[quick.run]
accel = "soft"
seconds = 0.4
[quick.guests.zipf]
memory = "16M"
[quick.matrix]
overcommit = [1.0, 2.0]
""",
    "density": """
[quick]
repetitions = 2
[quick.run]
accel = "soft"
pool = "32M"
[[quick.phases]]
name = "guests come quickly"
seconds = 2
one_by_one = { guests = "idle", every = 0.1 }
[quick.guests.idle]
memory = "16M"
""",
    "huge": """
[quick]
repetitions = 2
[quick.run]
accel = "soft"
seconds = 0.4
[quick.guests.scan]
memory = "24M"
""",
}

# 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}

# Whether a chart's canvas has anything on it but its background.
DRAWN = """
return [...document.querySelectorAll('figure[data-panel]')].map((figure) => {
  const canvas = figure.querySelector('canvas');
  if (!canvas || !canvas.width || !canvas.height) return 0;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = new Set();
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3] > 200) colors.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
  }
  return colors.size;
})"""

TABLES = """
return [...document.querySelectorAll('table[data-chart]')].map((table) => ({
  chart: +table.dataset.chart, panel: +table.dataset.panel, of: table.dataset.of,
  rows: [...table.tBodies[0].rows].map((row) => Object.fromEntries([...row.cells].filter((c) => c.dataset.key).map(
    (cell) => [cell.dataset.key, cell.dataset.v === undefined ? null : [+cell.dataset.v, cell.textContent]]))),
}))"""

WIDER = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, pre, .u-wrap, .tip') &&
    e.getBoundingClientRect().right > width + 0.5).map((e) => e.outerHTML.slice(0, 200))"""

UNITS = {"": 1, "G": 1e9, "M": 1e6, "k": 1e3, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "byte": 1, "bytes": 1, "s": 1,
         "ms": 1e3, "\u00b5s": 1, "%": 0.01}


def start_browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    home = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", f"--user-data-dir={home}",
                     "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(service=Service(CHROMEDRIVER), options=options)
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions",
                            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})
    return browser


def make_page(hostile):
    directory = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
    example_results.write(directory, hostile)
    subprocess.run([QUIRE, "report", directory], check=True, stdout=subprocess.DEVNULL)
    return directory


def carry_out(name):
    """The shipped experiment, with its own questions, matrix and charts."""
    directory = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
    with open(f"experiments/{name}.toml", encoding="utf-8") as file:
        text = file.read().split("\n[quick]\n")[0] + SHRUNK[name]
    path = os.path.join(directory, name + ".toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    out = os.path.join(directory, "out")
    subprocess.run([QUIRE, "experiment", path, "--quick", "--out=" + out], check=True, stdout=subprocess.DEVNULL)
    return out


# ----------------------------------------------------------------------------------------------------------------------
# What the page is to say, computed again
# ----------------------------------------------------------------------------------------------------------------------

def runs_of(directory):
    """The usable lines, of each run the last."""
    with open(os.path.join(directory, "experiment.json"), encoding="utf-8") as file:
        experiment = json.load(file)
    runs = {}
    with open(os.path.join(directory, "results.jsonl"), encoding="utf-8") as file:
        for line in file:
            try:
                run = json.loads(line)
            except ValueError:
                continue
            if isinstance(run, dict) and run.get("form") == 1 and len(run.get("point", {})) == len(experiment["axes"]):
                run["values"] = {k: v for k, v in run["values"].items() if abs(v) < 1e18}
                runs[run["run"]] = run
    return experiment, list(runs.values())


def at(runs, **point):
    return [run for run in runs if all(run["point"][axis] == value for axis, value in point.items())]


def series_of(chart, one):
    return {chart["series"]: one["name"]} if "series" in chart else {}


def points_of_panels(experiment, chart):
    """A chart has a panel for each setting of the axes that are neither in it nor fixed."""
    fixed = {chart.get("x"), chart.get("series"), *chart.get("at", {})}
    axes = [axis for axis in experiment["axes"] if axis["name"] not in fixed]
    return [dict(zip((axis["name"] for axis in axes), values))
            for values in itertools.product(*(axis["values"] for axis in axes))]


def repetitions(runs, key):
    return {run["repetition"]: run["values"][key] for run in runs if run["outcome"] == "ok" and key in run["values"]}


def interval(values):
    if len(values) < 2:
        return None, None
    half = STUDENT_T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def estimate(values):
    values = list(values)
    if not values:
        return dict.fromkeys(("median", "mean", "low", "high"))
    low, high = interval(values)
    return {"median": statistics.median(values), "mean": statistics.mean(values), "low": low, "high": high}


def comparison(first, second):
    logs = [math.log(first[n] / second[n]) for n in sorted(first.keys() & second.keys())]
    low, high = interval(logs)
    return {"pairs": len(logs), "ratio": math.exp(statistics.mean(logs)) if logs else None,
            "low": None if low is None else math.exp(low), "high": None if high is None else math.exp(high)}


def quantile(histograms, q):
    """By counting along the buckets of all runs together."""
    bounds = histograms[0]["us"]
    counts = [sum(h["counts"][i] for h in histograms) for i in range(len(bounds) + 1)]
    rank = q * sum(counts)
    for i, bound in enumerate(bounds):
        before = sum(counts[:i])
        if before + counts[i] >= rank and counts[i]:
            share = (rank - before) / counts[i]
            return bound * share if i == 0 else bounds[i - 1] * (bound / bounds[i - 1]) ** share
    return None


def shown(text):
    """The number that a cell's text stands for."""
    if text.strip() == "\u2013":
        return None
    number, unit = re.fullmatch(r"(-?[\d.,]+(?:e[+-]?\d+)?)\s*(\S*?)(?:/s)?", text.strip().split(" of ")[0]).groups()
    return float(number.replace(",", "")) * UNITS[unit]


class PageBrowserTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = start_browser()
        cls.plain, cls.hostile = make_page(False), make_page(True)
        cls.pages = {"plain": cls.plain, "hostile": cls.hostile, **{name: carry_out(name) for name in SHRUNK},
                     **{"of " + directory.strip("/").replace("/", "-"): directory for directory in DIRECTORIES}}

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()

    def open(self, directory, size="laptop", scheme="light"):
        width, height, scale, mobile = SIZES[size]
        self.browser.get_log("browser")
        self.browser.get_log("performance")
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                     {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile})
        self.scheme(scheme)
        self.browser.get("file://" + os.path.join(directory, "report.html"))

    def scheme(self, scheme):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                     {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def run_script(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def data(self):
        return json.loads(self.run_script("return document.getElementById('data').textContent"))

    def screenshot(self, name):
        outputs = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
        if not outputs:
            return
        height = self.run_script("return document.documentElement.scrollHeight")
        width = self.run_script("return document.documentElement.clientWidth")
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {
            "captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}})
        with open(os.path.join(outputs, name + ".png"), "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def check_quiet(self):
        """No complaint of the browser, and no request but for the page itself."""
        self.assertEqual([entry["message"] for entry in self.browser.get_log("browser")], [])
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = {message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"}
        self.assertEqual({url.split("#")[0] for url in urls}, {self.browser.current_url.split("#")[0]})

    def check_fits(self):
        overflow = self.run_script("const e = document.scrollingElement; return [e.scrollWidth, e.clientWidth]")
        self.assertEqual(overflow[0], overflow[1], self.run_script(WIDER))
        self.assertEqual(self.run_script(WIDER), [])

    def check_drawn(self):
        colors = self.run_script(DRAWN)
        panels = sum(len(chart["panels"]) for chart in self.data()["charts"])
        self.assertEqual(len(colors), panels)
        self.assertGreater(panels, 0)
        # Axes alone are a handful of shades of grey.
        self.assertGreater(min(colors), 12, colors)

    def test_is_drawn_and_fits_in_both_sizes_and_schemes(self):
        for (name, directory), size, scheme in itertools.product(self.pages.items(), SIZES, SCHEMES):
            if directory not in (self.plain, self.hostile) and (size, scheme) not in (("laptop", "light"), ("phone", "dark")):
                continue
            with self.subTest(page=name, size=size, scheme=scheme):
                self.open(directory, size, scheme)
                self.check_drawn()
                self.check_fits()
                self.screenshot(f"{name}-{size}-{scheme}")
                self.run_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
                self.check_fits()
                self.screenshot(f"{name}-{size}-{scheme}-open")
                self.check_quiet()

    def wait_for(self, script, *arguments):
        """The page hears of another scheme or size with its next frame, some time after the browser was told."""
        until = time.monotonic() + 20
        while not self.run_script("return " + script, *arguments):
            self.assertLess(time.monotonic(), until, script)
            time.sleep(0.05)

    def test_is_drawn_anew_for_another_scheme_and_size(self):
        self.open(self.plain, "laptop", "light")
        self.run_script("window.light = document.querySelector('canvas').toDataURL()")
        self.scheme("dark")
        self.wait_for("document.querySelector('canvas').toDataURL() !== window.light")
        width, height, scale, mobile = SIZES["phone"]
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                     {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile})
        self.wait_for("[...document.querySelectorAll('.uplot')].every((e) => e.clientWidth < arguments[0])", width)
        self.check_drawn()
        self.check_fits()

    def test_says_under_the_pointer_what_is_there(self):
        self.open(self.plain)
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By
        for figure in self.browser.find_elements(By.CSS_SELECTOR, "figure[data-panel]"):
            self.run_script("arguments[0].scrollIntoView({block: 'center'})", figure)
            ActionChains(self.browser).move_to_element(figure.find_element(By.CSS_SELECTOR, ".u-over")).perform()
            self.assertNotEqual(figure.find_element(By.CSS_SELECTOR, ".tip").text.strip(), "")
        self.check_quiet()

    def test_takes_nothing_of_files_for_markup(self):
        self.open(self.hostile)
        self.assertEqual(self.run_script("return document.querySelectorAll('img, iframe, object, link, a[href^=http]').length"), 0)
        self.assertEqual(self.run_script("return document.querySelectorAll('script').length"), 3)
        self.assertIn("<img src=x onerror", self.run_script("return document.querySelector('h1').textContent"))
        self.assertTrue(self.browser.title.endswith("\u2013 Quire"), self.browser.title)
        text = self.run_script("return document.querySelector('.measured').textContent")
        for part in ("is no JSON", "has another form", "is no JSON object", "not of this experiment", "timeline",
                     "no number, or too large", "unfinished", "the last counts"):
            self.assertIn(part, text)

    # ------------------------------------------------------------------------------------------------------------------
    # Numbers
    # ------------------------------------------------------------------------------------------------------------------

    def check_number(self, cell, embedded, expected):
        if expected is None:
            self.assertIsNone(embedded)
            self.assertIsNone(cell)
            return
        self.assertEqual(cell[0], embedded)
        self.assertAlmostEqual(embedded, expected, delta=abs(expected) * 1e-3 + 1e-12)
        text = cell[1]
        scale = 1e6 if text.endswith(" s") and abs(expected) > 1e5 else 1  # microseconds shown as seconds
        self.assertAlmostEqual(shown(text) * scale, expected, delta=abs(expected) * 0.006 + 1e-9, msg=text)

    def check_row(self, row, embedded, expected):
        for key, value in expected.items():
            self.check_number(row[key], embedded[key], value)

    def check_values(self, chart, panel, tables, runs):
        x, series, key = chart.get("x"), chart.get("series"), chart["y"]
        rows = iter(tables["values"]["rows"])
        for i, value in enumerate(panel["x"]["values"]):
            for k, one in enumerate(panel["series"]):
                here = at(runs, **{x: value}, **({series: one["name"]} if series else {}))
                self.check_row(next(rows), one["places"][i], estimate(repetitions(here, key).values()))
            if "compare" in chart:
                sides = [repetitions(at(runs, **{x: value, series: side}), key) for side in chart["compare"]]
                self.check_row(tables["comparisons"]["rows"][i], panel["comparisons"][i], comparison(*sides))

    def check_coverage(self, chart, panel, tables, runs):
        for row, one in zip(tables["coverage"]["rows"], panel["series"]):
            self.check_row(row, one, estimate(repetitions(at(runs, **series_of(chart, one)), "huge_share").values()))

    def check_latency(self, chart, panel, tables, runs):
        for row, one in zip(tables["latency"]["rows"], panel["series"]):
            histograms = [run["latency"] for run in at(runs, **series_of(chart, one)) if run["outcome"] == "ok"]
            self.check_row(row, one, {"p50": quantile(histograms, 0.5), "p90": quantile(histograms, 0.9),
                                      "p99": quantile(histograms, 0.99), "p999": quantile(histograms, 0.999),
                                      "count": sum(sum(h["counts"]) for h in histograms)})

    def check_memory(self, chart, panel, tables, runs):
        run = next(run for run in runs if run["run"] == panel["run"])
        self.assertEqual((run["outcome"], run["repetition"]), ("ok", 1))
        columns = {name: run["timeline"][name] for name in panel["columns"]}
        self.assertEqual(panel["columns"], columns)
        for row, name in zip(tables["memory"]["rows"], ("resident", "shared", "compressed", "other", "free")
                             if "shared_bytes" in columns else ("resident", "compressed", "other", "free")):
            samples = columns[name + "_bytes"]
            summary = {"least": min(samples), "median": statistics.median(samples), "most": max(samples)}
            self.check_row(row, summary, summary)

    def test_shows_what_the_results_hold(self):
        for name, directory in self.pages.items():
            self.open(directory)
            experiment, runs = runs_of(directory)
            found = {(table["chart"], table["panel"], table["of"]): table for table in self.run_script(TABLES)}
            for i, (chart, shown_chart) in enumerate(zip(experiment["charts"], self.data()["charts"], strict=True)):
                points = points_of_panels(experiment, chart)
                self.assertEqual(len(points), len(shown_chart["panels"]), chart["title"])
                for p, (point, panel) in enumerate(zip(points, shown_chart["panels"])):
                    with self.subTest(page=name, chart=i, panel=p):
                        tables = {of: found[key] for key in found for of in [key[2]] if key[:2] == (i, p)}
                        check = getattr(self, "check_" + chart["kind"])
                        check(chart, panel, tables, at(runs, **chart.get("at", {}), **point))


if __name__ == "__main__":
    QUIRE = os.path.abspath(sys.argv[1])
    DIRECTORIES = [os.path.abspath(directory) for directory in sys.argv[2:]]
    del sys.argv[1:]
    for program in (CHROMIUM, CHROMEDRIVER):
        if not os.path.exists(program):
            sys.exit(f"page_browser_test: there is no {program}, and so nothing was tested: {ADVICE}")
    try:
        import selenium  # noqa: F401
    except ImportError:
        sys.exit(f"page_browser_test: python3 has no selenium, and so nothing was tested: {ADVICE}")
    unittest.main(verbosity=2)
