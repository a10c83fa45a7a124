"""What torch's operator database and transformers' newest models make of capture and cost; the long walk is `slow`."""

from __future__ import annotations

import pytest

from tests.evaluation.coverage import Outcome, by_name, markdown, models, newest_architectures, operator_names, operators

pytest.importorskip("expecttest", reason="torch's operator database needs it")
REFUSED = ("jiterator", "sparse.", "to_sparse", "_flash_attention", "_efficient_attention", "batch_norm.without_cudnn")
"""Parts of the names of operators that need a GPU or whose tensors are sparse."""
SAMPLE = 24
"""One of so many operators is captured in every test run."""


def check(outcomes: list[Outcome]) -> None:
    """Every operator is costed, free, or refused for what it is."""
    assert outcomes
    wrong = [one for one in outcomes if one.status in ("unknown", "crashed")]
    wrong += [one for one in outcomes if one.status == "refused" and not any(part in one.name for part in REFUSED)]
    assert not wrong


def test_a_sample_of_torchs_operators() -> None:
    check(list(operators(operator_names()[::SAMPLE], samples=1)))


@pytest.mark.slow
def test_all_of_torchs_operators() -> None:
    check(list(operators(samples=4)))


def test_a_new_model() -> None:
    """Of the newest architectures the first by name; none was added for this test."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    (one,) = models(newest_architectures(1))
    assert one.status == "costed"
    assert one.calls > 20


@pytest.mark.slow
def test_the_newest_models() -> None:
    """None crashes, none has an operator without a cost; those that need inputs of their own are refused with a reason."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    outcomes = list(models(newest_architectures(60)))
    assert [one for one in outcomes if one.status in ("unknown", "crashed")] == []
    assert sum(one.status == "costed" for one in outcomes) >= 50
    assert all(one.reason for one in outcomes if one.status == "refused")


def test_the_table() -> None:
    """The worst sample of an operator counts, and a reason is one cell."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    outcomes = [Outcome("a", "free"), Outcome("a", "costed", 3), Outcome("b", "costed", 1), Outcome("b", "unknown", 1, ("x.y",))]
    outcomes.append(Outcome("c", "refused", reason="takes a | b"))
    assert {name: one.status for name, one in by_name(outcomes).items()} == {"a": "costed", "b": "unknown", "c": "refused"}
    lines = list(markdown(outcomes, [Outcome("bert", "costed", 9)]))
    assert "| costed | 1 | 2 |" in lines
    assert "| `b` | unknown | `x.y` |" in lines
    assert "| `c` | refused | takes a \\| b |" in lines
    assert lines[-1] == "Costed: `bert`."
