"""The doctor's tables, from made-up probes: every combination has a mode or a reason, and a replay is not native."""

import json
from dataclasses import replace

from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.commands import doctor
from bench.probe import BackendFacts, Support
from bench.registry import Reference
from bench.types import PRECISIONS

LONG = "it needs a library that nobody has. Type: pip install x[extra] some-very-long-name, on another machine. " * 2


def facts(name="graphs", *, speed=True, version="graphs 1.2-build-of-a-tuesday", **modes):
    support = {}
    for device in doctor.DEVICES:
        for precision in PRECISIONS:
            mode = modes.get(precision) if device == "cpu" else None
            support[(device, precision)] = Support(mode=mode, reason="" if mode else LONG)
    return BackendFacts(reference=Reference(name=name, target=name), asked=True, artifact_kind="onnx",
                        measures_speed=speed, version=version, support=support)  # fmt: skip


def printed(*tables):
    console = Console(width=80, file=None)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


def test_every_combination_has_a_mode_or_a_reason():
    rows = doctor.support_rows([facts(fp32="native", fp16="emulated")])
    assert len(rows) == len(doctor.DEVICES) * len(PRECISIONS)
    assert {(r["device"], r["precision"]): r["mode"] for r in rows if r["mode"]} == {
        ("cpu", "fp32"): "native",
        ("cpu", "fp16"): "emulated",
    }
    assert all(bool(r["mode"]) != bool(r["reason"]) for r in rows)


def test_a_recording_replays_and_claims_no_speed():
    rows = doctor.support_rows([facts("recorded", speed=False, fp32="native")])
    assert [r["mode"] for r in rows if r["mode"]] == ["replays"]


def test_the_tables_fit_eighty_columns_and_hold_every_reason():
    rows = doctor.support_rows([facts(fp32="native", fp16="emulated", int8="native")])
    text = printed(doctor._support_table(rows), doctor._reasons_table(rows))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert " 1.2 " in text
    assert "tuesday" not in text
    assert " ".join(text.split()).count("x[extra]") >= 2


def test_a_reason_that_holds_on_every_device_is_said_once():
    support = {(d, p): Support(mode=None, reason="no") for d in doctor.DEVICES for p in PRECISIONS}
    rows = doctor.support_rows([replace(facts(), version="", support=support)])
    assert printed(doctor._reasons_table(rows)).count(" no ") == 1
    assert {r["version"] for r in rows} == {None}


def test_the_host_is_described_with_what_matters_for_lower_precisions(monkeypatch, tmp_path):
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
    (tmp_path / "file").write_bytes(b"0" * 2**20)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx512_vnni", "amx_bf16", "sse"})
    host = doctor.host_facts()
    assert host["cpu_flags"] == {"int8": ["avx512_vnni"], "bf16": ["amx_bf16"], "fp16": []}
    assert host["store_mb"] == 1.0
    lines = "\n".join(doctor.host_lines(host))
    assert "int8 avx512_vnni; bf16 amx_bf16; fp16 none" in lines
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: None)
    assert "int8 unknown" in "\n".join(doctor.host_lines(doctor.host_facts()))


def test_the_command_prints_json(monkeypatch):
    monkeypatch.setattr(doctor, "probe", lambda *args, **kwargs: [facts(fp32="native")])
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    document = json.loads(result.output)
    assert {"host", "cells"} == set(document)
    assert document["cells"][0].keys() == {"backend", "version", "device", "precision", "mode", "reason"}
