import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.across.pins import check_pins
from bench.errors import InputError, UsageError
from bench.predictions.agreement import contradictions
from bench.protocols import (
    AS_RUN,
    Mismatch,
    Protocol,
    as_run,
    between,
    evaluate,
    list_protocols,
    load_protocol,
    mismatches,
    pin_of_meta,
    refuse,
    settings_of_meta,
    settings_of_model,
)
from bench.registry import load_adapter
from bench.schema import schema_of, to_json, validate, validate_file
from bench.scoring import from_predictions
from bench.tests.sample_poses import found_poses, posed_set
from bench.tests.sample_predictions import fixture_set

SPEC = load_adapter("yolov10n").spec
SHAPES = replace(fixture_set(), name="shapes")
CONTRACT = {
    "protocol_schema_version": 1,
    "id": "yolo26",
    "task": "detect",
    "dataset": "coco",
    "split": "val2017",
    "imgsz": 640,
    "bbox_format": "cxcywh_norm",
    "fixed_conditions": {
        "imgsz": 640,
        "score_threshold": 0.001,
        "iou_threshold": 0.7,
        "max_detections": 300,
        "bbox_format": "cxcywh_norm",
        "preprocess": {"method": "letterbox", "input_color": "RGB", "normalize": "0_1"},
    },
    "metric_key": "map50_95",
    "e2e": {"nms": "none"},
}
META = {
    "exporter": "onnxruntime",
    "imgsz": 640,
    "min_score": 0.001,
    "nms_iou": 0.7,
    "topk": 300,
    "task": "detect",
    "preprocess": {"method": "letterbox", "input_color": "RGB", "normalize": "0_1", "resize_interp": "linear"},
}
COCO = replace(fixture_set(), name="coco", split="val2017")


def written(tmp_path, **changes):
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps({**CONTRACT, **changes}))
    return path


def contract():
    return Protocol(document=CONTRACT)


def stated(meta, fixtures=COCO, bbox_format="cxcywh_norm"):
    return settings_of_meta(meta, fixtures, bbox_format=bbox_format)


@pytest.mark.parametrize("name", list_protocols())
def test_a_shipped_protocol_is_valid_and_is_found_by_the_name_it_gives_itself(name):
    assert validate_file(list_protocols()[name]) == "protocol/1"
    assert load_protocol(name).id == name


def test_both_protocols_ship():
    assert set(list_protocols()) == {"coco_eval", "shapes_eval"}


def test_the_shipped_model_follows_the_protocol_of_its_set():
    assert mismatches(load_protocol("shapes_eval"), settings_of_model(SPEC, SHAPES)) == ()


def test_a_model_of_another_size_on_another_set_is_told_field_by_field():
    found = mismatches(load_protocol("coco_eval"), settings_of_model(SPEC, SHAPES))
    assert [str(m) for m in found] == ["imgsz: wanted [640, 640], found [320, 320]"]


def test_the_hash_is_that_of_the_contract_over_the_whole_document():
    text = json.dumps(CONTRACT, sort_keys=True, separators=(",", ":"))
    assert contract().hash == hashlib.sha256(text.encode()).hexdigest()


@given(st.permutations(sorted(CONTRACT)))
def test_the_hash_does_not_depend_on_the_order_of_the_keys(names):
    assert Protocol(document={name: CONTRACT[name] for name in names}).hash == contract().hash


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("id",), "other"),
        (("fixed_conditions", "score_threshold"), 0.0011),
        (("fixed_conditions", "preprocess", "normalize"), "x"),
    ],
)
def test_every_change_of_a_protocol_changes_its_hash(place, value):
    document = json.loads(json.dumps(CONTRACT))
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    assert Protocol(document=document).hash != contract().hash


def test_the_contracts_own_form_is_read(tmp_path):
    protocol = load_protocol(str(written(tmp_path)))
    assert protocol.hash == contract().hash
    assert protocol.conditions["imgsz"] == [640, 640]
    assert schema_of(CONTRACT) == "protocol/1"


def test_a_file_that_states_all_of_it_under_the_exporters_names_follows_it():
    assert mismatches(contract(), stated(META)) == ()


@pytest.mark.parametrize("name", ["imgsz", "min_score", "nms_iou", "topk", "task", "preprocess"])
def test_what_a_file_does_not_state_is_a_mismatch_and_never_assumed(name):
    found = mismatches(contract(), stated({k: v for k, v in META.items() if k != name}))
    assert found
    assert {m.found for m in found} == {"not stated"}


def test_a_file_without_any_meta_states_nothing():
    found = mismatches(contract(), stated({}, bbox_format=None))
    assert {m.field for m in found} == set(contract().conditions) - {"dataset", "split"}
    assert {m.found for m in found} == {"not stated"}


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("imgsz", 320, "imgsz"),
        ("imgsz", [640, 320], "imgsz"),
        ("imgsz", "640", "imgsz"),
        ("min_score", 0.3, "score_threshold"),
        ("min_score", float("nan"), "score_threshold"),
        ("nms_iou", 0.65, "iou_threshold"),
        ("topk", 100, "max_detections"),
        ("topk", True, "max_detections"),
        ("task", "pose", "task"),
        ("preprocess", {**META["preprocess"], "method": "resize"}, "preprocess.method"),
    ],
)
def test_what_differs_is_named_with_both_values(name, value, field):
    found = mismatches(contract(), stated({**META, name: value}))
    assert [m.field for m in found] == [field]
    assert found[0].wanted != found[0].found


@pytest.mark.parametrize(
    "meta",
    [
        {"export_settings": META},
        {"run": {"config_fingerprint": META}},
        {**META, "imgsz": 320, "image_hw": [640, 640]},
        {**{k: v for k, v in META.items() if k != "imgsz"}, "image_size": {"width": 640, "height": 640}},
        {**{k: v for k, v in META.items() if k != "min_score"}, "conf": 1e-3},
        {**META, "nms_iou": None},
    ],
)
def test_settings_are_found_where_exporters_put_them(meta):
    assert mismatches(contract(), stated(meta)) == ()


def test_no_suppression_follows_a_threshold_only_where_the_protocol_says_so():
    strict = Protocol(document={k: v for k, v in CONTRACT.items() if k != "e2e"})
    found = mismatches(strict, stated({**META, "nms_iou": None}))
    assert [str(m) for m in found] == ["iou_threshold: wanted 0.7, found none"]


def test_another_set_or_box_format_is_a_mismatch():
    assert [m.field for m in mismatches(contract(), stated(META, SHAPES))] == ["dataset", "split"]
    assert [m.field for m in mismatches(contract(), stated(META, bbox_format="xywh_abs"))] == ["bbox_format"]


def test_a_truth_value_is_no_number():
    one = Protocol(document={"protocol_schema_version": 1, "id": "p", "fixed_conditions": {"max_detections": 1}})
    assert [m.found for m in mismatches(one, stated({"topk": True}))] == ["True"]
    assert mismatches(one, stated({"topk": 1.0})) == ()


def test_what_a_protocol_leaves_open_may_be_anything():
    bare = Protocol(document={"protocol_schema_version": 1, "id": "p", "fixed_conditions": {"max_detections": 300}})
    assert mismatches(bare, stated({"topk": 300}, bbox_format=None)) == ()


def test_refusing_lists_every_field_and_how_to_go_on():
    found = mismatches(contract(), stated({**META, "imgsz": 320, "topk": 100}))
    with pytest.raises(InputError) as refused:
        refuse("a.json", contract().label, found, allow=False)
    sizes, counts = "imgsz: wanted [640, 640], found [320, 320]", "max_detections: wanted 300, found 100"
    for words in ("a.json", "yolo26", sizes, counts, "--allow-protocol-mismatch"):
        assert words in str(refused.value)
    (warning,) = refuse("a.json", contract().label, found, allow=True)
    assert "allowed by" in warning
    assert refuse("a.json", contract().label, (), allow=False) == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol_schema_version": 2}, "protocol_schema_version"),
        ({"id": "../x"}, "id"),
        ({"metric_key": "f1"}, "metric_key"),
        ({"fixed_conditions": {}}, "fixed_conditions"),
        ({"fixed_conditions": {"scroe_threshold": 0.1}}, "scroe_threshold"),
        ({"imgsz": 320}, "they must agree"),
        ({"bbox_format": "xyxy_abs"}, "they must agree"),
        ({"id": AS_RUN}, "choose another"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(tmp_path, changes, told):
    with pytest.raises(InputError, match=told):
        load_protocol(str(written(tmp_path, **changes)))


def test_an_unknown_name_suggests_the_nearest_and_a_missing_file_says_so(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'coco_eval'"):
        load_protocol("coco_evl")
    with pytest.raises(InputError, match="no such file"):
        load_protocol(str(tmp_path / "none.json"))


def test_a_run_without_a_protocol_pins_its_own_settings():
    plain = evaluate(SPEC, SHAPES, None)
    assert plain.id == AS_RUN
    assert plain.mismatches == ()
    assert evaluate(replace(SPEC, score_floor=0.3), SHAPES, None).hash != plain.hash
    validate(to_json(as_run(plain.settings).document), "protocol", where="test")
    assert mismatches(as_run(plain.settings), plain.settings) == ()


def pin(protocol, *, settings=None, found=()):
    return {"id": protocol.id, "hash": protocol.hash, "settings": settings or {}, "mismatches": list(found)}


OTHER = Protocol(document={**CONTRACT, "id": "other"})
OWN = pin(as_run(settings_of_model(SPEC, SHAPES)), settings=settings_of_model(SPEC, SHAPES))
OWN_FLOOR = pin(as_run(settings_of_model(replace(SPEC, score_floor=0.3), SHAPES)))


def test_two_pins_break_nothing_when_both_are_the_same_or_neither_has_a_name():
    assert between(pin(contract()), pin(contract())) == ()
    assert between(None, None) == between(OWN, None) == between(OWN, OWN_FLOOR) == ()


@pytest.mark.parametrize("theirs", [None, OWN, pin(OTHER)])
def test_a_named_pin_beside_another_is_a_mismatch(theirs):
    for ours, base in ((pin(contract()), theirs), (theirs, pin(contract()))):
        (found,) = between(ours, base)
        assert found.field == "protocol"


def test_the_pin_of_a_file_needs_both_its_parts():
    assert pin_of_meta({"protocol_id": "a", "protocol_hash": "b"}) == {"id": "a", "hash": "b"}
    assert pin_of_meta({"protocol_id": "a"}) is None
    assert pin_of_meta({"protocol_id": "a", "protocol_hash": 3}) is None


def test_runs_pinned_to_two_protocols_are_refused_unless_allowed():
    sides = ({"m": pin(contract())}, {"m": pin(OTHER)})
    with pytest.raises(InputError, match=r"m of the candidate .* protocol: wanted yolo26 .*, found other"):
        check_pins(*sides, ["m"], None, allow=False)
    assert len(check_pins(*sides, ["m"], None, allow=True)) == 1
    assert check_pins(*sides, [], None, allow=False) == ()


def test_a_run_that_was_allowed_a_mismatch_is_refused_later_until_that_is_allowed_again():
    found = {"field": "imgsz", "wanted": "640", "found": "320"}
    sides = ({"m": pin(contract())}, {"m": pin(contract(), found=[found])})
    with pytest.raises(InputError, match="imgsz: wanted 640, found 320"):
        check_pins(*sides, ["m"], None, allow=False)


def test_a_protocol_asked_for_holds_both_runs_by_their_settings_whatever_they_are_pinned_to():
    shapes = load_protocol("shapes_eval")
    assert check_pins({"m": OWN}, {"m": OWN}, ["m"], shapes, allow=False) == ()
    with pytest.raises(InputError, match=r"m of the base .* imgsz: wanted .320, 320., found not stated"):
        check_pins({}, {"m": OWN}, ["m"], shapes, allow=False)
    with pytest.raises(InputError, match="m of the candidate"):
        check_pins({"m": OWN}, {"m": OWN_FLOOR}, ["m"], shapes, allow=False)


def test_an_evaluation_is_taken_as_value_or_as_json():
    value = {"m": evaluate(SPEC, SHAPES, load_protocol("shapes_eval"))}
    assert check_pins(to_json(value), value, ["m"], None, allow=False) == ()


def test_detections_that_contradict_the_protocol_are_seen_whatever_the_file_states():
    fixtures = posed_set(images=3)
    table = from_predictions(found_poses(fixtures), (1, 2))
    tight = Protocol(document={**CONTRACT, "fixed_conditions": {"score_threshold": 0.99, "max_detections": 2}})
    fields = [m.field for m in contradictions(tight, table)]
    assert fields == ["score_threshold", "max_detections"]
    assert contradictions(contract(), table) == []
    assert contradictions(tight, table.take([])) == []


def test_a_mismatch_reads_as_field_wanted_found():
    assert str(Mismatch(field="imgsz", wanted="1", found="2")) == "imgsz: wanted 1, found 2"
