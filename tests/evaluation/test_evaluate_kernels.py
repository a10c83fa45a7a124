"""The evaluation of measured kernels: what its rows become, and what is carried to other machines."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shmoo.calibrate.calibration import Calibration
from shmoo.calibrate.fit.dataset import Sources
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import TENSOR
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from tests.evaluation import kernels
from tests.evaluation.declared import CONTROLLER, COOL
from tests.evaluation.kernels import (
    LOOPS,
    carried,
    estimates,
    evaluate,
    of_tensor_cores,
    read,
    shown,
    teaching,
    without_tensor,
)
from tests.evaluation.loops import with_loops, with_loops_of

GEMM = "device,dtype,m,n,k,trtllm_s,vllm_s,sglang_s\n"
ATTENTION = "device,phase,batch,q_len,kv_len,heads,kv_heads,head_dim,latency_s,power_w,framework,kernel\n"
LOWBIT = "device,kind,m,n,k,latency_s,framework\n"


def folder(path: Path, **files: str) -> Path:
    (path / "measured").mkdir()
    for name, text in files.items():
        (path / "measured" / f"{name}.csv").write_text(text)
    return path


def test_products_have_cold_weights_and_device_times(tmp_path: Path) -> None:
    """The first framework with a value counts; machines that no profile describes are left out."""
    text = GEMM + "h100_sxm_80gb,bfloat16,16,4096,4096,,2e-5,3e-5\narc_b60,bfloat16,16,4096,4096,1e-5,,\n"
    (row,) = read(folder(tmp_path, gemm_bf16=text), ("gemm_bf16",))
    assert (row.profile, row.group, row.case.latency_s) == ("gpu_h100", "gemm bfloat16", 2e-5)
    assert (row.case.time, row.case.case.cache_state) == ("device", "cold")
    with pytest.raises(InputError, match="vidur_ops_fp16"):
        read(tmp_path, ("vidur_ops_fp16",))


def test_only_prefill_has_a_mask(tmp_path: Path) -> None:
    """A decode step sees all its keys."""
    text = ATTENTION + "".join(
        f"l40s,{phase},4,{queries},512,32,8,128,1e-5,,vllm,fa2\n" for phase, queries in (("decode", 1), ("prefill", 512))
    )
    decode, prefill = read(folder(tmp_path, attention_bf16=text), ("attention_bf16",))
    causal = [row.case.graphs[0].calls[0].attributes["is_causal"] for row in (decode, prefill)]
    assert causal == [False, True]


def test_what_is_measured_beside_a_kernel_is_in_its_case(tmp_path: Path) -> None:
    """TensorRT-LLM's attention rotates and stores keys in a kernel before it; blocked float8 found its activations rounded, in
    groups of 128, where others have a scale a row."""
    lines_of = "".join(f"h100_sxm_80gb,prefill,4,512,512,32,8,128,1e-4,,{name} 1,x\n" for name in ("vllm", "trtllm"))
    text = LOWBIT + "".join(f"h100_sxm_80gb,{kind},16,4096,4096,2e-5,x\n" for kind in ("fp8", "fp8_block"))
    found = read(folder(tmp_path, attention_bf16=ATTENTION + lines_of, gemm_lowbit=text), ("attention_bf16", "gemm_lowbit"))
    assert [(row.group, len(row.case.graphs), len(row.case.graphs[-1].calls)) for row in found] == [
        ("attention prefill", 1, 1), ("TensorRT-LLM attention prefill", 3, 1), ("gemm fp8", 1, 2), ("DeepGEMM fp8_block", 1, 1),
    ]  # fmt: skip
    assert found[-1].case.graphs[0].values[1].is_weight
    scales = [row.case.graphs[-1].calls[-1].operand("scale_a").shape for row in found[2:]]
    assert scales == [(16, 1), (16, 32)]
    assert len(teaching(found, "gpu_h100")) == 3


def test_products_of_deepbench_start_on_a_cool_board(tmp_path: Path) -> None:
    """Ten calls of half a second warm a board by a tenth, 2,000 of 0.1 ms hardly."""
    text = "device,suite,dtype,m,n,k,a_transposed,b_transposed,latency_s,padded\n"
    text += "t4,train,float32,7680,48000,2560,N,N,0.5,\nt4,train,float32,1760,16,1760,N,N,1e-4,\n"
    large, small = read(folder(tmp_path, deepbench_gemm=text), ("deepbench_gemm",))
    assert large.case.warm == pytest.approx(0.115, abs=0.01)
    assert small.case.warm == pytest.approx(0.005, abs=0.002)


def test_layers_of_an_older_library_teach_corrections_alone(tmp_path: Path) -> None:
    """Vidur's linear layers are among the cases, and not among those that the physics is fitted to."""
    text = "device,op,m_tokens,n_out,k_in,latency_s\nh100_sxm_80gb,linear,64,4096,4096,2e-5\n"
    products = GEMM + "h100_sxm_80gb,bfloat16,16,4096,4096,2e-5,,\n"
    rows = read(folder(tmp_path, vidur_ops_fp16=text, gemm_bf16=products), ("vidur_ops_fp16", "gemm_bf16"))
    assert [case.other_release for case in teaching(rows, "gpu_h100")] == [True, False]


def test_when_a_cap_sets_in_is_the_same_on_every_board_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short loops do not tell a slow controller from slow units."""
    asked = {}

    def calibrated(read: Sources, start: ArchitectureProfile, **named: object) -> Calibration:
        asked[start.name] = start.coefficients.get("throttle.time"), named["only"]
        return Calibration(start, ())

    monkeypatch.setattr(kernels, "calibrate_cases", calibrated)
    for name in ("gpu_h100", "gpu_l40s"):
        kernels.fitted([], name)
    kernels.fitted([], kernels.OLDER)
    own = load_profile(kernels.OLDER).coefficients["throttle.time"]
    taught = kernels.TAUGHT
    assert asked == {"gpu_h100": (CONTROLLER, taught), "gpu_l40s": (CONTROLLER, taught), kernels.OLDER: (own, taught)}
    assert "time" not in kernels.TAUGHT


def test_a_card_of_volta_learns_from_products_of_its_time(tmp_path: Path) -> None:
    """DeepBench's in float16, which no other card is fitted to."""
    text = "device,suite,dtype,m,n,k,a_transposed,b_transposed,latency_s,padded\n"
    for device in ("v100_sxm2_dgx1", "t4"):
        text += "".join(f"{device},train,{dtype},1760,64,1760,N,N,4e-5,\n" for dtype in ("float32", "float16_float32_accumulate"))
    rows = read(folder(tmp_path, deepbench_gemm=text), ("deepbench_gemm",))
    (case,) = teaching(rows, kernels.OLDER)
    assert case.case.dtype == "float16"
    assert teaching(rows, "gpu_t4") == []


def test_a_v100_takes_its_products_in_float32_from_its_own_rows() -> None:
    """DeepBench's device times, 1.5 times what its chip takes elsewhere and 20 us more: the fit finds both."""
    card = kernels.with_products([])
    shapes = [(m, n, k) for m in (16, 64, 256, 1024) for n in (512, 2048, 7680) for k in (512, 2048, 4096)]
    rows = [kernels._table_row("linear", {"b": 1, "m": m, "n": n, "k": k}, "float32", 1.0) for m, n, k in shapes]
    cases = [kernels._case(row) for row in rows]
    known = kernels.estimates(cases, card).estimated
    told = [replace(case, latency_s=1.5 * s + 2e-5) for case, s in zip(cases, known.tolist(), strict=True)]
    made = kernels.with_products(told)
    assert np.abs(kernels.estimates(told, made).estimated / [case.latency_s for case in told] - 1.0).mean() < 0.05
    changed = {n for n, c in made.coefficients.items() if card.coefficients.get(n) != c}
    assert changed
    assert {whose(n) for n in changed} <= set(kernels.OF_UNITS)
    assert made.value("device_launch.gemm") > 8e-6
    chip = load_profile(kernels.OLDER_CHIP)
    assert all(card.coefficients[n] == c for n, c in chip.coefficients.items() if whose(n) in kernels.OF_UNITS)


def test_cards_start_cool_on_tensor_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing says so of cards with published rates, as no meter does; no other carried card is told."""
    monkeypatch.setattr(kernels, "read", lambda folder: [])
    monkeypatch.setattr(kernels, "fitted", lambda cases, name, residual=True: load_profile(name))
    monkeypatch.setattr(kernels, "left_out_sigma", lambda rows, measured: {})
    made = {profile.name: profile for profile in kernels.published_tensor(Path())}
    for name, own in COOL.items():
        assert made[name].coefficients["throttle.cool.tensor"] == own["throttle.cool.tensor"]
    for name in ("gpu_v100", "gpu_l4"):
        assert "throttle.cool.tensor" not in made[name].coefficients


def test_rows_that_wait_for_their_host_are_left_out(tmp_path: Path) -> None:
    """Below a tenth of a millisecond LLMCompass's table holds launches, of products too."""
    text = "device,dtype,op,rows_m,columns_n,reduction_k,latency_s\n"
    text += "".join(f"a100,float16,{op},8192,64,64,{s}\n" for op in ("matmul", "softmax") for s in (2.9e-5, 2e-4))
    rows = read(folder(tmp_path, llmcompass_ops_fp16=text), ("llmcompass_ops_fp16",))
    assert [(row.group, row.case.latency_s) for row in rows] == [("LLMCompass float16", 2e-4), ("LLMCompass loops", 2e-4)]


def test_errors_are_shown_by_device_group_and_decade(tmp_path: Path) -> None:
    """One line a group, with the share inside the interval."""
    text = LOWBIT + "h100_sxm_80gb,fp8,16,4096,4096,2e-5,trtllm\nh100_sxm_80gb,fp6,16,4096,4096,2e-5,trtllm\n"
    rows = read(folder(tmp_path, gemm_lowbit=text), ("gemm_lowbit",))
    header, line = shown(evaluate(rows))
    assert header.split()[:3] == ["profile", "group", "rows"]
    assert line.split()[:4] == ["gpu_h100", "gemm", "fp8", "1"]
    found = estimates([row.case for row in rows], load_profile("gpu_h100"))
    assert found.low[0] < found.estimated[0] < found.high[0]


def test_what_is_carried_belongs_to_tensor_cores() -> None:
    """Coefficients of float32 kernels, and everything looked up, stay as they are."""
    target = load_profile("gpu_l4")
    made = carried([load_profile("gpu_h100"), load_profile("gpu_l40s")], target)
    assert without_tensor(made).coefficients == without_tensor(target).coefficients
    names = of_tensor_cores(made)
    assert {c.source for c in names.values()} == {"transferred"}
    assert {whose(name) for name in names} & set(TENSOR) >= {"gemm_tensor", "attention_tensor"}


def test_the_same_chip_counts_before_others_with_the_same_kernels() -> None:
    """An A100 and an L40S run kernels of one generation: an L4 takes those of both, the nearer one's more, and when its cap sets
    in as on the L40S; another A100 takes those of the A100 alone."""
    measured = [load_profile(name) for name in ("gpu_a100_sxm_80g", "gpu_l40s", "gpu_h100")]
    made = carried(measured, load_profile("gpu_l4"))
    a100, l40s, l4 = (math.log(profile.value("overlap.gemm_tensor")) for profile in (*measured[:2], made))
    assert l4 == pytest.approx((l40s + math.exp(-0.9) * a100) / (1 + math.exp(-0.9)))
    assert made.coefficients["throttle.time"].value == measured[1].coefficients["throttle.time"].value
    alone = of_tensor_cores(carried(measured, load_profile("gpu_a100_40g"))).values()
    means = {c.reference for c in alone if "geometric mean" in c.reference}
    assert means == {"geometric mean of gpu_a100_sxm_80g"}


def test_loops_are_told_apart_by_whose_kernels_ran(tmp_path: Path) -> None:
    """Phi-2 adds two sums; norms by mean squares are vLLM's, and LLMCompass compiled its layer norms."""
    text = "device,op,m_tokens,n_out,k_in,latency_s,models\n" + "".join(
        f"h100_sxm_80gb,{op},64,{n},,1e-5,{model}\n"
        for op, n, model in (("add", 2560, "phi-2"), ("add", 4096, "Llama-2-7b-hf"), ("rms_norm", 4096, "Llama-2-7b-hf"))
    )
    compass = "device,dtype,op,rows_m,columns_n,reduction_k,latency_s\n"
    compass += "a100,float16,softmax,8192,4096,,2e-4\na100,float16,layernorm,8192,4096,,2e-4\n"
    tables = folder(tmp_path, vidur_ops_fp16=text, llmcompass_ops_fp16=compass)
    rows = read(tables, ("vidur_ops_fp16", "llmcompass_ops_fp16"))
    assert [(row.group, len(row.case.graphs)) for row in rows] == [
        ("LLM loops float16", 2), ("LLM loops float16", 1), ("vLLM loops float16", 1),
        ("LLMCompass loops", 1), ("LLMCompass compiled loops", 1),
    ]  # fmt: skip
    assert [row.group.startswith(LOOPS) for row in rows] == [True, True, False, True, False]


def test_loops_of_a_card_teach_it_and_others_of_its_generation(tmp_path: Path) -> None:
    """Additions at a known rate are found; an H200 takes what an H100 showed, a V100 does not, and no other coefficient moves."""
    moved, rate = 6 * 4096, 3.0e12
    text = "device,op,m_tokens,n_out,k_in,latency_s,models\n" + "".join(
        f"h100_sxm_80gb,add,{tokens},4096,,{2e-6 + moved * tokens / rate},x\n" for tokens in range(4000, 60000, 1500)
    )
    rows = read(folder(tmp_path, vidur_ops_fp16=text), ("vidur_ops_fp16",))
    base = load_profile("gpu_h100")
    cases = [row.case for row in rows]
    made = with_loops(cases, base)
    found = estimates(cases, made)
    assert abs(found.estimated / found.measured - 1.0).max() < 0.05
    changed = {n for n, c in made.coefficients.items() if base.coefficients.get(n) != c}
    assert changed
    assert {whose(n) for n in changed} <= {"pointwise", "add"}
    assert with_loops([], base) == base
    bare = {n: c for n, c in load_profile("gpu_h200").coefficients.items() if not c.from_fit}
    h200, v100 = load_profile("gpu_h200").replacing(coefficients=bare), load_profile("gpu_v100")
    assert with_loops_of([made], h200).value("device_launch.add") == pytest.approx(made.value("device_launch.add"))
    assert with_loops_of([made], v100) == v100
