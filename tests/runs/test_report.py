"""The report page: whole, offline, and safe with any name."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from shmoo.estimators.graph.records import Interval, Source
from shmoo.estimators.machine.profile import Coefficient, FittedFrom, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.savings import FusionSavings, FusionSummary, FusionTotals
from shmoo.runs.analysis.errors import error_report
from shmoo.runs.analysis.metrics import error_card
from shmoo.runs.analysis.predict import director_predictor, network_estimates, network_fusions
from shmoo.runs.plots.chart import Guide, Heat, Rule, figures_json, script_json
from shmoo.runs.plots.errors import parity_figure, residual_figure, roofline_figure
from shmoo.runs.plots.shmoo import plane_figure, shmoo_figure
from shmoo.runs.report import _coefficient_row, one_sided, render_report, verdict, write_report
from shmoo.runs.store.records import CaseSpec, ChildTime, Machine, Measurement, OperatorTime, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from shmoo.runs.tables.reading import TableRow

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
PROFILE = load_profile("cpu_server_generic")
CACHES = {"l1": 48 * 2**10, "l2": 2 * 2**20}


def make_run(path, network: str = "tinynet"):
    """Twelve linear layers over three axes, eight sizes of relu, a network of two calls, and a failed case."""
    machine = Machine(f"CPU of {network}", 2, 4, 2**33, CACHES)
    rows = [
        TableRow(2, "linear", {"b": 1, "m": m, "n": n, "k": k}) for m in (16, 64, 256) for n in (32, 128, 512) for k in (64, 128)
    ]
    rows += [TableRow(2, "relu", {"shape": f"{2**e}x256"}) for e in range(2, 10)]
    with RunWriter(path, RunManifest(machine, "quick")) as writer:
        for visit in (0, 1):
            for i, row in enumerate(rows):
                graph = row.graph()
                timing = Timing((1e-5 * (1 + i % 3),) * 5)
                writer.append(Measurement(row.case, "ok", (), (graph.content_hash,), timing, visit=visit), (graph,))
        graphs = (rows[0].graph(), rows[-1].graph())
        children = (ChildTime(0, "aten.linear", 2e-5, "interpreter"), ChildTime(1, "aten.relu", 1e-5, "interpreter"))
        case = CaseSpec(network, "network", {"batch": 1})
        hashes = tuple(graph.content_hash for graph in graphs)
        writer.append(Measurement(case, "ok", (), hashes, Timing((3.9e-5, 4e-5, 4e-5, 4.1e-5)), children), graphs)
        writer.append(
            Measurement(CaseSpec(network, "network", {"batch": 2}), "failed", (Reason(f"{network} ran out of memory"),))
        )
    return Run.open(path)


def estimate(model: str, arch: str, energy: bool = True) -> dict:
    value = {"value": 2e-3, "low": 1e-3, "high": 4e-3}
    record = {"model": model, "arch": arch, "batch": 1, "dtype": "float32", "runtime": "eager", "latency_s": value}
    record |= {"throughput_per_s": {"value": 500, "low": 250, "high": 1000}, "energy_j": value if energy else None}
    record |= {"flops": 1e9, "bytes": 1e7, "tiles": 64, "peak_memory_bytes": 1e7, "basis": {"datasheet": 1.0}}
    return record if energy else record | {"energy_j_reason": f"profile {arch!r} has no energy coefficients"}


class Page(HTMLParser):
    """Tags with their attributes, script texts by id, and everything else as text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.data: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id", tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        else:
            self.data[self._inside] = self.data.get(self._inside, "") + data

    def figures(self) -> dict[str, dict]:
        return json.loads(self.data["figures"])["figures"]

    def marks(self, name: str) -> list[dict]:
        return [mark for chart in self.figures()[name]["charts"] for mark in chart["marks"]]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return error_report(make_run(tmp_path_factory.mktemp("run") / "r"), PROFILE)


@pytest.fixture(scope="module")
def page(report):
    return Page(render_report(report, [estimate("resnet18", "gpu_v100"), estimate("resnet18", "kpu_t64", energy=False)]))


def test_page_loads_nothing_from_anywhere(page):
    """No element names a file or a host: links stay inside the page, and its scripts neither."""
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:")), attributes
    assert "fetch(" not in page.data["script"]
    assert "http" not in page.data["script"].replace("http://www.w3.org/2000/svg", "")


def test_a_page_of_two_thousand_cases_is_light(tmp_path):
    """1.5 MB at most, so that it can be sent round."""
    machine = Machine("CPU", 2, 4, 2**33, CACHES)
    with RunWriter(tmp_path / "r", RunManifest(machine, "quick")) as writer:
        for i in range(2000):
            row = TableRow(2, "linear", {"b": 1 + i // 100, "m": 16 + i % 10, "n": 32 + i // 10 % 10, "k": 64})
            graph = row.graph()
            writer.append(Measurement(row.case, "ok", (), (graph.content_hash,), Timing((1e-5 * (1 + i % 7),) * 5)), (graph,))
    made = error_report(Run.open(tmp_path / "r"), PROFILE)
    assert len(made.cases) == 2000
    assert len(render_report(made).encode()) < 1_500_000


def test_the_verdict_comes_first(page, report):
    """Error of networks, coverage, number of cases and noise, before any table."""
    text = page.text.replace("\u00a0", " ")
    assert verdict(report) in text
    assert text.index(verdict(report)) < text.index("mean error, networks")
    (network,) = report.networks
    held_out = [case for case in report.cases if case.split == "test"]
    inside = sum(case.inside for case in held_out) / len(held_out)
    assert verdict(report).startswith(
        f"Networks ±{abs(network.whole.error) * 100:.1f} %, coverage {inside * 100:.0f} % of the 90 %"
    )
    assert f"{len(report.cases)} cases, noise floor" in verdict(report)


def faster(report, factor):
    """The report of the same machine at so many times its speed, whose estimates were equal to the measurements."""
    estimates = [float(factor ** (1 if i % 4 else -0.5) * case.measured_s) for i, case in enumerate(report.cases)]
    cases = [
        msgspec.structs.replace(case, estimate_s=Interval(value, value / 2, value * 2))
        for case, value in zip(report.cases, estimates, strict=True)
    ]
    fitted = FittedFrom(fingerprint={"threads": report.manifest.machine.threads})
    return msgspec.structs.replace(report, cases=tuple(cases), profile=report.profile.replacing(fitted_from=fitted))


@pytest.mark.parametrize(("factor", "shifted"), [(1.05, False), (1.19, False), (1.5, True), (0.5, True)])
def test_a_machine_that_changed_its_speed_is_named(report, factor, shifted):
    """Three of four cases deviate by the factor, the others to the other side."""
    changed = faster(report, factor)
    assert changed.median_ratio == pytest.approx(1 / factor)
    assert changed.shifted == shifted == ("another speed" in verdict(changed))


def test_a_shift_has_one_cause(report):
    """A profile that was never fitted, or was fitted on other threads, says so and blames no change of speed."""
    changed = faster(report, 1.5)
    unfitted = msgspec.structs.replace(changed, profile=changed.profile.replacing(fitted_from=None))
    assert "not calibrated for the machine yet" in verdict(unfitted)
    assert "another speed" not in verdict(unfitted)
    fitted = FittedFrom(fingerprint={"threads": report.manifest.machine.threads + 1})
    other = msgspec.structs.replace(changed, profile=changed.profile.replacing(fitted_from=fitted))
    assert f"fitted on {report.manifest.machine.threads + 1} threads" in verdict(other)
    assert "another speed" not in verdict(other)


@pytest.mark.parametrize(
    ("estimated", "said"),
    [((0.8, 0.9, 0.7), " (all 3 too fast)"), ((1.2, 1.1, 1.3), " (all 3 too slow)"), ((0.8, 1.1, 0.7), ""), ((0.8, 0.9), "")],
)
def test_networks_that_all_err_to_one_side_are_said(estimated, said):
    """Three are enough to say so, two may lie there by chance."""
    assert one_sided(error_card(estimated, [1.0] * len(estimated))) == said


def test_unequal_visits_are_said(report):
    """Networks visited eight times and operators once share no noise floor."""
    cases = [msgspec.structs.replace(c, visits=8 if c.case.kind == "network" else 1) for c in report.cases]
    assert "(operators visited once, networks 8 times)" in verdict(msgspec.structs.replace(report, cases=tuple(cases)))
    equal = [msgspec.structs.replace(c, visits=3) for c in report.cases]
    assert "visited" not in verdict(msgspec.structs.replace(report, cases=tuple(equal)))


def test_cases_are_estimated_on_the_threads_of_their_run():
    """A case that names no number runs on that of its run; a case that names one keeps it, and a GPU has none."""
    graph = TableRow(2, "linear", {"b": 1, "m": 256, "n": 256, "k": 256}).graph()
    cores = int(PROFILE.value("count.cores"))
    assert cores > 1
    plain, named = CaseSpec("linear", "operator"), CaseSpec("linear", "operator", threads=1)
    whole, one, kept = (
        director_predictor(PROFILE, threads)([(case, (graph,))])[0].latency_s.value
        for threads, case in ((None, plain), (1, plain), (cores, named))
    )
    assert one == kept > whole
    assert director_predictor(PROFILE, cores + 1)([(plain, (graph,))])[0].latency_s.value == whole


def test_few_cases_do_not_tell_of_a_machine(report):
    few = faster(report, 3.0)
    assert not msgspec.structs.replace(few, cases=few.cases[:10]).shifted


def test_every_plot_has_data_that_can_be_seen(page):
    """All plots are there, each has its place in the page, and each holds finite numbers inside its axes' ranges."""
    figures = page.figures()
    assert set(figures) == {"parity", "residual", "breakdown", "roofline", "shmoo", "plane", "tiles", "energy"}
    assert {attributes["data-figure"] for _, attributes in page.tags if "data-figure" in attributes} == set(figures)
    for name in figures:
        numbers = [
            v for mark in page.marks(name) for field in ("x", "y", "at", "end", "layers") for v in _numbers(mark.get(field))
        ]
        assert numbers, name
        assert all(math.isfinite(v) for v in numbers), name
    (parity,) = figures["parity"]["charts"]
    assert parity["x"]["low"] < 1e-5 < 4e-5 < parity["x"]["high"]


def _numbers(values):
    if isinstance(values, list):
        return [number for value in values for number in _numbers(value)]
    if isinstance(values, dict):
        return _numbers(values["z"])
    return [values] if isinstance(values, int | float) else []


def test_each_network_shows_measured_estimated_error_and_standard_error(page, report):
    """The summary names the network with its figures; samples of 39, 40, 40 and 41 µs have a standard error of 1.0 %."""
    (network,) = report.networks
    assert network.whole.standard_error == pytest.approx(0.0102, abs=1e-4)
    for text in (
        "tinynet",
        "40.0 µs",
        f"{network.whole.error * 100:+.1f} %",
        "1.0 %",
        f"{network.weighted_error * 100:.1f} %",
    ):
        assert text in page.text


def test_why_energy_is_missing_is_said_once(page):
    """An architecture without energy appears with its reason and the word unknown."""
    assert page.text.count("'kpu_t64' has no energy coefficients") == 1
    assert "unknown" in page.text


def test_rows_set_aside_are_listed(page):
    """A failed row is on the page with its reason."""
    assert "tinynet ran out of memory" in page.text


def test_coefficients_show_unit_source_and_uncertainty(page):
    """Every coefficient of the profile is in the table."""
    for name, coefficient in PROFILE.coefficients.items():
        assert name in page.text
        assert coefficient.source in page.text
    assert "GB/s" in page.text


def test_names_cannot_become_markup(tmp_path):
    """Hostile names of a network, a machine, a model and an architecture add no element and no script."""
    plain = error_report(make_run(tmp_path / "plain"), PROFILE)
    hostile = error_report(make_run(tmp_path / "hostile", HOSTILE), PROFILE)
    expected = Page(render_report(plain, [estimate("m", "a", energy=False), estimate("m", "a")]))
    seen = Page(render_report(hostile, [estimate(HOSTILE, HOSTILE, energy=False), estimate(HOSTILE, HOSTILE)]))
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in expected.tags]
    assert HOSTILE in seen.text
    assert "<" not in seen.data["figures"]
    assert HOSTILE in json.loads(seen.data["figures"])["figures"]["energy"]["charts"][0]["marks"][-1]["name"]


def test_embedded_json_cannot_end_its_script(report):
    """The JSON of a page holds no angle bracket, and says the same after decoding; a text of two marks is stored once."""
    text = script_json({HOSTILE: 1.5})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text) == {HOSTILE: 1.5}
    packed = json.loads(figures_json({"a": parity_figure(report.cases), "b": residual_figure(report.cases)}))
    assert len(packed["texts"]) == len(set(packed["texts"])) == len(report.cases)
    points = [mark for mark in packed["figures"]["a"]["charts"][0]["marks"] if mark["type"] == "points"]
    assert sum(len(mark["texts"]) for mark in points) == len(report.cases)


def test_files_are_written_side_by_side(report, tmp_path):
    """report.html and errors.csv land in a directory that is made where needed; no estimates are needed."""
    path = write_report(report, [], tmp_path / "a" / "b")
    assert path.name == "report.html"
    assert (path.parent / "errors.csv").read_text().count("\n") == 1 + len(report.cases) + 2 + 1
    assert "No estimates over architectures" in path.read_text()


def test_capacities_are_marked_where_they_fall(report):
    """The line of a 48 KiB level stands at log2(48 x 1024), counted from the shmoo's first octave."""
    (chart,) = shmoo_figure(report.cases, {"L1": 48 * 1024.0}).charts
    first = min(round(math.log2(case.bytes)) for case in report.cases if case.case.kind == "operator")
    (rule,) = (mark for mark in chart.marks if isinstance(mark, Rule))
    assert rule.x == pytest.approx(math.log2(48 * 1024) - first)
    assert chart.x.labels[0] == f"{2**first // 1024} KiB"


def test_each_operator_is_shown_relative_to_its_own_best(report):
    """Every row of the shmoo has a cell of exactly 1 and none above."""
    (chart,) = shmoo_figure(report.cases, {}).charts
    (heat,) = (mark for mark in chart.marks if isinstance(mark, Heat))
    for row in heat.layers[0].z:
        assert max(cell for cell in row if cell is not None) == 1.0


def test_plane_needs_two_axes():
    """An operator swept over one axis only gives no plane."""
    assert plane_figure([], {}) is None


def test_roofs_meet_at_the_ridge(report):
    """Each bandwidth roof ends where bandwidth x intensity is the highest peak."""
    peak = max(PROFILE.value("peak.matrix.float32", 0.0), PROFILE.value("peak.vector.float32", 0.0))
    (chart,) = roofline_figure(report.cases, PROFILE).charts
    roofs = [mark for mark in chart.marks if isinstance(mark, Guide) and mark.label.endswith("B/s")]
    assert len(roofs) == len(PROFILE.levels)
    for roof in roofs:
        assert roof.y[1] == pytest.approx(peak)


def test_batched_estimates_equal_single_ones():
    """Asking for many cases at once changes neither value nor work; intervals may differ by their draws only."""
    rows = [TableRow(2, "relu", {"shape": "64x64"}), TableRow(3, "linear", {"b": 1, "m": 64, "n": 64, "k": 64})]
    asked = [(row.case, (row.graph(),)) for row in rows]
    predict = director_predictor(PROFILE)
    together = predict(asked)
    for case, batched in zip(asked, together, strict=True):
        (alone,) = predict([(CaseSpec("net", "network"), case[1])])
        assert batched.latency_s.value == pytest.approx(alone.latency_s.value)
        assert (batched.flops, batched.bytes, batched.tiles) == pytest.approx((alone.flops, alone.bytes, alone.tiles))
        assert batched.breakdown[0].family == alone.breakdown[0].family
        assert batched.breakdown[0].latency_s == pytest.approx(alone.breakdown[0].latency_s)


def test_cases_on_fewer_threads_are_estimated_together(monkeypatch):
    """Two batches, one a number of threads, each as `AnalysisDirector` estimates it on that many."""
    priced = []
    price = AnalysisDirector.price
    monkeypatch.setattr(AnalysisDirector, "price", lambda self, *given, **named: priced.append(1) or price(self, *given, **named))
    rows = [TableRow(2, "linear", {"b": 1, "m": m, "n": 64, "k": 64}) for m in (8, 16, 32, 64)]
    asked = [(msgspec.structs.replace(row.case, threads=1 + i % 2), (row.graph(),)) for i, row in enumerate(rows)]
    together = director_predictor(PROFILE)(iter(asked))
    assert len(priced) == 2
    for (case, graphs), one in zip(asked, together, strict=True):
        alone = AnalysisDirector(PROFILE).estimate(graphs, runtime="eager", threads=case.threads)
        assert one.latency_s == alone.latency_s


def test_plots_show_some_of_many_cases(report, monkeypatch):
    """With room for five points a plot shows every fourth case, and the page says so; its tables count all."""
    monkeypatch.setattr("shmoo.runs.report.MOST_DRAWN", 5)
    page = Page(render_report(report))
    points = sum(len(mark["x"]) for mark in page.marks("parity") if mark["type"] == "points")
    assert 0 < points <= 7
    assert "plots show one in" in page.text
    assert str(len(report.cases)) in page.text


def test_networks_of_a_run_are_estimated_on_other_machines(tmp_path):
    """One record a network and machine, from the stored graphs, with the machine's own runtime."""
    records = network_estimates(make_run(tmp_path / "r"), [load_profile("gpu_v100"), load_profile("tpu_v4")])
    seen = [(record["model"], record["arch"], record["runtime"]) for record in records]
    assert seen == [("tinynet", "gpu_v100", "inductor"), ("tinynet", "tpu_v4", "xla")]
    assert all(r["latency_s"]["low"] <= r["latency_s"]["value"] <= r["latency_s"]["high"] for r in records)


def test_what_fusion_saves_is_drawn_for_every_network(tmp_path):
    """Bars of what is left of kernels, bytes, time and energy: of two calls in two pieces nothing is fused."""
    run = make_run(tmp_path / "r")
    (network,) = network_fusions(run, PROFILE)
    seen = Page(render_report(error_report(run, PROFILE), fusion=[network]))
    bars = [mark for mark in seen.marks("fusion") if mark["type"] == "bars"]
    assert {mark["name"] for mark in bars} == {"kernels", "bytes", "time", "energy"}
    assert {mark["name"]: mark["labels"] for mark in bars}["kernels"] == ["2 → 2"]
    assert "What fusion saves" in seen.text


def test_groups_that_share_a_kernel_are_listed(report):
    """The most frequent first, with the shares saved; a hostile name is text."""
    savings = FusionSavings(FusionTotals(4, 100.0, 2e-3, None), FusionTotals(3, 80.0, 1e-3, None))
    summary = FusionSummary(HOSTILE, "gpu_v100", "inductor", savings, (("batch_norm + relu", 16), ("add + relu", 8)))
    page = Page(render_report(report, fusion=[summary]))
    for text in (HOSTILE, "25.0 %", "20.0 %", "50.0 %", "unknown", "16 × (batch_norm + relu), 8 × (add + relu)"):
        assert text in page.text
    assert "energy" not in {mark.get("name") for mark in page.marks("fusion")}
    assert "<script>" not in summary._repr_html_()


def test_operators_timed_alone_stand_beside_the_whole(tmp_path):
    """A relu alone takes 30 µs and stands twice in a network of 40 µs: 1.50 of it."""
    run = make_run(tmp_path / "r")
    (network,) = error_report(run, PROFILE).networks
    assert network.operators_s is None
    with RunWriter(run.path, run.manifest, resume=True) as writer:
        row = next(row for row in run.rows if row.case.kind == "network" and row.status == "ok")
        alone = (OperatorTime("aten.relu", (0, 1), 3e-5),)
        writer.append(msgspec.structs.replace(row, operators=alone, visit=1), run.graphs(row))
    made = error_report(Run.open(run.path), PROFILE)
    assert made.networks[0].operators_s == pytest.approx(6e-5)
    assert "1.50" in Page(render_report(made)).text


def test_every_source_of_a_coefficient_has_a_colour():
    """A name of two words is one class."""
    style = (Path(__file__).parents[2] / "runs" / "templates" / "page.css").read_text(encoding="utf-8")
    assert all(f".source-{source.replace(' ', '-')} span" in style for source in get_args(Source))
    cells = [_coefficient_row("c", Coefficient(1.0, "1", source))["source"] for source in get_args(Source)]
    assert {cell.tone for cell in cells} == {f"source-{source.replace(' ', '-')}" for source in get_args(Source)}
