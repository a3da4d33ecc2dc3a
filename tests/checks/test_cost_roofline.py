"""Roofline shares: ordered by form, growing with batch and tokens, and CB is reported where it is not negligible."""

from __future__ import annotations

import json

import pytest

from cbsurgeon import graph, surgery
from cbsurgeon.checks.cost.auditing import audit
from cbsurgeon.checks.cost.counts import Audit, Count, Inserted, Tally
from cbsurgeon.checks.cost.hardware import HARDWARE, ITEM, NAMES, Hardware, described, measured_cpu, named
from cbsurgeon.checks.cost.roofline import model_seconds, roofline, shares
from cbsurgeon.errors import UsageError
from cbsurgeon.operators import CB
from cbsurgeon.operators.common.cost import FORMS
from tests.checks.cost_models import TIMM, counted, timm_model, with_operator


@pytest.fixture(scope="module")
def audited() -> Audit:
    model = counted("deit_tiny_patch16_224")[0]
    return audit(model, with_operator(model, "cb"))


def test_every_device_names_its_source_and_dense_peaks() -> None:
    assert set(NAMES) >= {"h100", "h200", "a100", "l4", "jetson-orin", "generic-cpu"}
    for name, device in NAMES.items():
        assert 1e10 < device.bandwidth < 1e13
        if name == "generic-cpu":
            assert "assumption" in device.source and set(device.peak) == {"float32"}
            continue
        assert "NVIDIA" in device.source
        assert device.peak["float16"] >= 2 * device.peak["float32"] > 0
    assert "bfloat16" not in NAMES["t4"].peak


def test_peaks_are_those_of_the_data_sheets() -> None:
    """H100 SXM: 3.35 TB/s, 67 TFLOPS in float32, 1,979 TFLOPS in float16 with sparsity, half of it dense."""
    device = NAMES["h100"]
    assert (device.bandwidth, device.peak["float32"], device.peak["float16"]) == (3.35e12, 67e12, 1979e12 / 2)


@pytest.mark.parametrize(
    ("bandwidth", "flops", "expected"),
    [
        ("3.35TB/s", "989T", (3.35e12, 989e12)),
        ("300 GB/s", "30.3TFLOPS", (300e9, 30.3e12)),
        (1e11, 2e12, (1e11, 2e12)),
        ("5e10", ".9e12", (5e10, 0.9e12)),
    ],
)
def test_a_device_given_by_its_peak_rates(
    bandwidth: str | float, flops: str | float, expected: tuple[float, float]
) -> None:
    device = described(bandwidth, flops)
    assert (device.bandwidth, device.peak["float32"]) == pytest.approx(expected)
    assert set(device.peak) == set(ITEM)


@pytest.mark.parametrize(
    ("bandwidth", "flops", "where"),
    [
        *(
            ("fast", "1T", "--bandwidth"),
            ("", "1T", "--bandwidth"),
            ("1TB/s", "", "--flops"),
            ("1TB/s", "0", "--flops"),
        ),
        *(("1TFLOPS", "1T", "--bandwidth"), ("1TB/s", "1TB/s", "--flops"), ("-1T", "1T", "--bandwidth")),
    ],
)
def test_a_device_that_is_not_described_is_refused(bandwidth: str, flops: str, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        described(bandwidth, flops)
    assert caught.value.code == "CB-AUDIT-04" and caught.value.where == where


def test_a_faster_form_never_has_the_larger_share(audited: Audit) -> None:
    rows = shares(audited)
    for device in HARDWARE:
        for dtype in {"float32", "float16"} & set(device.peak):
            found = [row for row in rows if (row.hardware, row.dtype) == (device.name, dtype)]
            assert [row.form for row in found] == list(FORMS)
            fused = [row for row in found if row.form != "line"]  # the others share one model time
            assert [row.least for row in fused] == sorted((row.least for row in fused), reverse=True)
            assert [row.operator_seconds for row in found] == sorted(
                (row.operator_seconds for row in found), reverse=True
            )


def test_bytes_of_the_line_are_those_of_the_nodes(audited: Audit) -> None:
    """The closed form of the unfused operator is what its nodes move in the audit."""
    item = audited.b.inserted[0]
    assert item.in_form("line").moved(1) * ITEM["float32"] == item.tally.bytes


def test_operator_time_is_bytes_over_bandwidth() -> None:
    device = Hardware("toy", "test", 1e9, {"float32": 1e9}, 0.0)
    item = Inserted(
        "x", "cb", tokens=100, channels=10, calls=2, tally=Tally(), formula="", traffic=CB.cost(100, 10).traffic
    )
    base = Count("a", Tally(), by_operator={"linear": Tally(operations=10**9, bytes=10)})
    edited = Count("b", Tally(), by_operator=base.by_operator, inserted=(item,))
    row = next(row for row in shares(Audit(base, edited, batch=3), hardware=[device], dtypes=["float32"]))
    assert row.model_seconds == pytest.approx(1.0)
    assert row.operator_seconds == pytest.approx(2 * 3 * (5 * 1000 + 40) * 4 / 1e9)
    assert row.least == pytest.approx(row.operator_seconds / (1 + row.operator_seconds))


def test_half_precision_makes_memory_cheaper_but_arithmetic_more_so(audited: Audit) -> None:
    """Why the share of CB is larger in float16: the products gain more than the bytes do."""
    rows = {(row.dtype, row.form): row for row in shares(audited, hardware=HARDWARE[:1])}
    wide, narrow = rows["float32", "folded"], rows["float16", "folded"]
    assert narrow.operator_seconds == pytest.approx(wide.operator_seconds / 2)
    assert narrow.model_seconds < wide.model_seconds


def test_unfused_models_take_longer(audited: Audit) -> None:
    fused, plain = (model_seconds(audited.a, HARDWARE[0], "float32", 1.0, fused=flag) for flag in (True, False))
    assert fused < plain
    assert model_seconds(audited.a, HARDWARE[0], "float32", 1.0, fused=True, reached=True) > fused


def test_the_models_own_kernels_cost_as_much_as_those_that_are_added() -> None:
    """Where nothing but kernels costs, the share is the operator's part of the kernels."""
    device = Hardware("toy", "test", 1e30, {"float32": 1e30}, 1e-6)
    item = Inserted("x", "cb", tokens=4, channels=4, calls=1, tally=Tally(), formula="", traffic=CB.cost(4, 4).traffic)
    work = {"linear": Tally(operations=1, bytes=1), "relu": Tally(operations=1, bytes=1)}
    base = Count("a", Tally(), by_operator=work, calls={"linear": 4, "relu": 8})
    rows = {
        row.form: row
        for row in shares(Audit(base, Count("b", Tally(), inserted=(item,))), hardware=[device], dtypes=["float32"])
    }
    assert rows["line"].estimate == pytest.approx(4 / (4 + 12))
    assert rows["folded"].estimate == pytest.approx(1 / (1 + 4))
    assert rows["fused"].estimate == pytest.approx(0, abs=1e-12)


def test_the_table_says_where_operators_are_not_negligible(audited: Audit) -> None:
    table = roofline(audited, hardware=named(["h200", "t4"]), dtypes=["float16", "bfloat16"])
    felt = {(row["hardware"], row["dtype"]) for row in table["rows"] if not row["negligible"]}
    assert len(table["not_negligible"]) == len(felt) > 0
    assert all(any(text.startswith(f"{place}, {kind}: ") for text in table["not_negligible"]) for place, kind in felt)
    assert table["left_out"] == ["T4: bfloat16"]
    assert set(table["forms"]) == {row["form"] for row in table["rows"]}
    assert json.loads(json.dumps(table, allow_nan=False)) == table


@pytest.mark.parametrize(
    ("hardware", "dtypes", "with_b", "code"),
    [
        (["h999"], ["float32"], True, "CB-AUDIT-01"),
        ([], ["float32"], True, "CB-AUDIT-01"),
        (["h200"], ["float32"], False, "CB-AUDIT-02"),
        (["t4"], ["bfloat16"], True, "CB-AUDIT-03"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    audited: Audit, hardware: list[str], dtypes: list[str], with_b: bool, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        roofline(audited if with_b else Audit(audited.a), hardware=named(hardware), dtypes=dtypes)
    assert caught.value.code == code


def test_real_insertion_counts_the_same_on_module_and_program() -> None:
    """Operators placed by surgery, both ways, are found and cost their closed form."""
    model = timm_model("deit_tiny_patch16_224", **TIMM["deit_tiny_patch16_224"])
    recipe = surgery.plan(graph.inspect(model), op="cb_s", layers="all", pos="end")
    module, program = surgery.insert_module(model, recipe), surgery.insert_program(model, recipe)
    assert program.module is None
    first, second = audit(model, module), audit(model, program)
    assert first.b.total == second.b.total
    assert first.difference == second.difference == audit(model, with_operator(model, "cb_s")).difference
    assert len(second.b.inserted) == 2


def test_an_audit_without_operators_has_no_roofline(audited: Audit) -> None:
    with pytest.raises(ValueError, match="with operators"):
        shares(Audit(audited.a))
    with pytest.raises(ValueError, match="with operators"):
        shares(Audit(audited.a, audited.a))


def test_rows_are_plain_json(audited: Audit) -> None:
    rows = json.loads(json.dumps([row.to_dict() for row in shares(audited)], allow_nan=False))
    assert all(row["negligible"] == (row["estimate"] <= 0.01) for row in rows)


def test_this_processor_can_be_measured() -> None:
    device = measured_cpu(repeats=1)
    assert 1e8 < device.bandwidth < 1e13  # between a very slow and an impossible memory
    assert 1e8 < device.peak["float32"] < 1e15
    assert 0 < device.kernel < 0.1
    assert "measured now" in device.source
