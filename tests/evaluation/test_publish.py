"""Profiles written from tables: the command, and what it says."""

from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import BUILTIN_DIR, ArchitectureProfile, Coefficient, ErrorCardEntry, load_profile
from shmoo.harness.cli.verbs.profiles import NETWORKS
from tests.evaluation import kernels, publish
from tests.evaluation.__main__ import main
from tests.evaluation.gpu import CONV_CARD, DEVICES
from tests.evaluation.results import Kept, Result, of_cases


def entry(mean: float, physics: float | None = None) -> ErrorCardEntry:
    return ErrorCardEntry(10, mean, mean, mean, 1.0, 1.0, 0.0, physics=physics)


def test_each_profile_is_written_and_told_with_its_errors(monkeypatch, tmp_path):
    """One line a file: errors with the residual, and without it where it changed them; others have no test split."""
    fitted = load_profile("gpu_v100").replacing(error_card={"test": {"gemm": entry(0.08, 0.1), "pointwise": entry(0.03)}})
    carried = load_profile("gpu_h100").replacing(error_card={})
    monkeypatch.setattr(publish, "PUBLICATIONS", {"gpu": lambda folder: iter((fitted, carried))})
    written = CliRunner().invoke(main, ["publish", "gpu", "tables", "--out", str(tmp_path / "new")])
    assert written.exit_code == 0
    assert load_profile(str(tmp_path / "new" / "gpu_v100.json")) == fitted
    assert [line.partition(": ")[2] for line in written.stdout.splitlines()] == [
        "gemm 8.0% (10.0% without residual), pointwise 3.0%",
        "no test split of its own",
    ]


def test_a_file_on_a_base_stays_one(tmp_path):
    """What was fitted to the card itself comes into it, in place of what an earlier fit left there; what it says of its board
    stays."""
    path = tmp_path / "gpu_v100_sxm2.json"
    described = msgspec.json.decode((BUILTIN_DIR / path.name).read_bytes())
    earlier = {"value": 0.5, "unit": "1", "source": "fitted", "reference": "an earlier fit"}
    path.write_bytes(msgspec.json.encode(described | {"coefficients": described["coefficients"] | {"half.k.gemv": earlier}}))
    card, c = load_profile("gpu_v100_sxm2"), Coefficient(0.7, "1", "fitted", "test", low=0.6, high=0.8)
    path.write_bytes(publish.file_of(card.replacing(coefficients={**card.coefficients, "overlap.gemm": c}), path))
    written = msgspec.json.decode(path.read_bytes())
    assert written["base"] == "gpu_v100"
    assert written["coefficients"]["count.sms"] == described["coefficients"]["count.sms"]
    assert written["coefficients"]["overlap.gemm"]["value"] == 0.7
    assert "half.k.gemv" not in written["coefficients"]
    assert publish.file_of(card, tmp_path / "new.json") == card.to_json()


def test_a_card_has_what_it_was_not_measured_for_from_the_same_chip_on_another():
    """What none of its own coefficients are of is carried and marked; what its own data say of an algorithm stays alone."""
    base = load_profile("gpu_a100_40g")

    def fitted(**values: float) -> ArchitectureProfile:
        named = {name.replace("__", "."): Coefficient(value, "1", "fitted", "test") for name, value in values.items()}
        return base.replacing(coefficients={n: c for n, c in base.coefficients.items() if c.source == "datasheet"} | named)

    card = fitted(efficiency__gemm=0.8)
    whole = publish.completed(card, fitted(efficiency__gemm=0.6, half__k__gemm=9.0, efficiency__conv_3x3=0.5))
    assert whole.value("efficiency.gemm") == 0.8
    assert whole.get("half.k.gemm") is None
    assert whole.value("efficiency.conv_3x3") == pytest.approx(0.5)
    assert whole.coefficients["efficiency.conv_3x3"].source == "transferred"


def test_every_gpu_of_its_own_is_published():
    """A built-in GPU is described by what differs from another, or publishing writes it: values that were carried to it once and
    never again would stay behind."""
    described = {path.stem: msgspec.json.decode(path.read_bytes()) for path in BUILTIN_DIR.glob("gpu_*.json")}
    alone = {name for name, profile in described.items() if "base" not in profile}
    assert alone == {
        *publish.UNMEASURED_GPUS,
        *kernels.FITTED,
        *kernels.TRANSFERRED,
        *(f"gpu_{d}" for d in (*DEVICES, *CONV_CARD.values())),
    }


def test_numbers_of_an_evaluation_are_kept_in_error_cards(tmp_path):
    """Entries go to the profile, split and group they name, beside what the card holds; lines of no group are only shown."""
    card = {"test": {"gemm": entry(0.08)}}
    (tmp_path / "gpu_v100.json").write_bytes(load_profile("gpu_v100").replacing(error_card=card).to_json())
    found = of_cases("v100 left out", entry(0.2), kept=Kept("gpu_v100", "left out", "linear"))
    assert publish.keep([found, Result("mean over devices", 10, 0.1)], tmp_path) == [tmp_path / "gpu_v100.json"]
    assert load_profile(tmp_path / "gpu_v100.json").error_card == card | {"left out": {"linear": entry(0.2)}}


def test_a_folder_without_the_tables_is_refused(tmp_path):
    """Exit code 2, the file is named, and nothing is written."""
    refused = CliRunner().invoke(main, ["publish", "gpu", str(tmp_path), "--out", str(tmp_path / "new")])
    assert refused.exit_code == 2
    assert "p100.csv" in refused.stderr
    assert not list((tmp_path / "new").iterdir())


def test_an_unknown_publication_names_those_there_are(tmp_path):
    """Names are listed."""
    with pytest.raises(InputError, match="gpu"):
        next(publish.publish("cpu", tmp_path))


def test_all_publications_follow_each_other(monkeypatch, tmp_path):
    """Joules before times, times before tensor cores, twice; each starts from the built-in profiles: nothing goes elsewhere."""
    asked = []
    assert set(publish.IN_TURN) == set(publish.PUBLICATIONS)
    monkeypatch.setattr(publish, "file_of", lambda profile, path: path.read_bytes())
    told = {name: lambda folder, name=name: iter(asked.append((name, folder)) or ()) for name in publish.PUBLICATIONS}
    monkeypatch.setattr(publish, "PUBLICATIONS", told)
    assert list(publish.publish("all", tmp_path)) == []
    assert [name for name, _ in asked] == [*(2 * ["energy", "gpu", "tensor", "recorded"]), "tpu"]
    assert {folder for name, folder in asked if name != "recorded"} == {tmp_path}
    assert (dict(asked)["recorded"] / "h200" / "time" / "run.json").is_file()
    with pytest.raises(InputError, match="leave --out out"):
        next(publish.publish("all", tmp_path, tmp_path))


@pytest.mark.parametrize("name", ["gpu_t4", "gpu_h100", "gpu_b200"])
def test_publishing_everything_starts_from_nothing_that_was_fitted(name):
    """What an earlier fit left in a profile, or a later one added, does not matter; host and literature stay."""
    builtin = load_profile(name)
    start = publish.unfitted(builtin)
    other = Coefficient(0.123, "1", "fitted", "another fit")
    fitted = [n for n, c in builtin.coefficients.items() if c.source == "fitted" and not n.startswith("energy")]
    refitted = {**builtin.coefficients, **{n: other for n in fitted if whose(n) not in publish.ELSEWHERE.get(name, ())}}
    assert publish.unfitted(builtin.replacing(coefficients={**refitted, "half.k.dot": other})) == start
    assert start.host == builtin.host
    assert not start.residual
    assert {n for n, c in builtin.coefficients.items() if c.source in ("datasheet", "literature")} <= set(start.coefficients)


def test_a_published_profile_keeps_its_host_and_what_other_tables_gave():
    """A fit holds the launches of its own host and nothing of DeepBench; the built-in one names a host and has both."""
    builtin = load_profile("gpu_t4")
    fitted = builtin.replacing(
        host="", coefficients={n: c for n, c in builtin.coefficients.items() if not n.endswith(("conv_1x1", "softmax"))}
    )
    made = publish.beside(fitted, builtin)
    assert made.host == "server_2025"
    assert made.coefficients["half.tile.conv_1x1"] == builtin.coefficients["half.tile.conv_1x1"]
    assert "overlap.softmax" not in made.coefficients


def test_numbers_go_beside_what_a_profile_says_of_its_base(tmp_path):
    """A file that describes what differs from another machine still says no more than that, and its numbers."""
    path = tmp_path / "gpu_rtx4090.json"
    before = msgspec.json.decode((BUILTIN_DIR / path.name).read_bytes())
    path.write_bytes(msgspec.json.encode({**before, "error_card": {}}))
    publish.keep([of_cases("networks", entry(0.2), kept=Kept("gpu_rtx4090", NETWORKS, "timm"))], tmp_path)
    described = msgspec.json.decode(path.read_bytes())
    assert {**described, "error_card": None} == {**before, "error_card": None}
    assert load_profile(path).error_card == {NETWORKS: {"timm": entry(0.2)}}
