"""Definitions of scenarios: the defaults, files that add to them, and what is wrong with a file."""

import json

import pytest

from bench.errors import InputError, UsageError
from bench.scenarios.definitions import DEFAULTS, choose, definitions_sha256, load_scenarios
from bench.schema import validate_file

AT = r"\$\.scenarios\.mine"
BOTH = {"description": "x", "select": {}, "alter": [{"op": "jpeg", "quality": 9}]}
NAMES = ["clean", "low_light", "blur", "jpeg", "small_objects", "crowded", "rotated", "cropped"]


def written(folder, scenarios, schema="scenarios/1"):
    path = folder / "mine.json"
    path.write_text(json.dumps({"schema": schema, "scenarios": scenarios}))
    return path


def altering(*steps):
    return {"description": "mine", "alter": list(steps)}


def test_the_defaults_are_the_eight_named_ones_and_valid_under_the_schema():
    assert list(load_scenarios()) == NAMES
    assert validate_file(DEFAULTS) == "scenarios/1"


def test_a_file_adds_scenarios_and_replaces_those_of_the_same_name(tmp_path):
    path = written(
        tmp_path,
        {
            "blur": altering({"op": "gaussian_blur", "sigma_px": 7}),
            "fast": altering({"op": "motion_blur", "length_px": 9}, {"op": "jpeg", "quality": 30}),
        },
    )
    found = load_scenarios(path)
    assert list(found) == [*NAMES, "fast"]
    assert found["blur"].steps[0]["sigma_px"] == 7
    assert found["fast"].alters
    assert not found["fast"].moves


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (altering({"op": "gaussian_blur", "sigma": 2}), r"\.alter\[0\]\.sigma: unknown key. Did you mean 'sigma_px'"),
        (altering({"op": "jpg", "quality": 20}), AT + r"\.alter\[0\]\.op: 'jpg' is unknown. Did you mean 'jpeg'"),
        (altering({"op": "crop"}), AT + r"\.alter\[0\]: has no 'keep'"),
        (altering({"op": "jpeg", "quality": 0}), AT + r"\.alter\[0\]\.quality: 0 is less than"),
        (altering({"op": "low_light", "exposure": "a"}), AT + r"\.alter\[0\]\.exposure: 'a' is not of type"),
        (altering({"op": "crop", "keep": 1}), r"\.keep: 1 is greater than or equal to the maximum"),
        ({"description": "x", "selct": {}}, AT + r"\.selct: unknown key. Did you mean 'select'"),
        ({"description": "x", "select": {"min_object": 3}}, r"\.min_object: unknown key. Did you mean 'min_objects'"),
        ({"description": "x"}, AT + r": give either 'select' or 'alter'"),
        (BOTH, "give either 'select' or 'alter'"),
        ({"description": "x", "select": {"object_area_px2": [9, 4]}}, "9 is above 4"),
        ({"description": "x", "select": {"min_objects": 3, "max_objects": 2}}, "min_objects 3 is above max_objects 2"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_json_path_with_the_nearest_word(tmp_path, scenario, told):
    with pytest.raises(InputError, match=told):
        load_scenarios(written(tmp_path, {"mine": scenario}))


def test_names_that_cannot_stand_in_a_command_are_refused(tmp_path):
    with pytest.raises(InputError, match="a name is lower-case letters"):
        load_scenarios(written(tmp_path, {"My Blur": altering({"op": "jpeg", "quality": 9})}))


def test_another_schema_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\$\.schema: must be 'scenarios/1'"):
        load_scenarios(written(tmp_path, {}, schema="scenarios/2"))


def test_clean_cannot_be_changed_because_all_others_are_compared_with_it(tmp_path):
    with pytest.raises(InputError, match="cannot be changed"):
        load_scenarios(written(tmp_path, {"clean": altering({"op": "jpeg", "quality": 9})}))


def test_clean_is_always_among_the_chosen_and_first():
    assert [s.name for s in choose(load_scenarios(), ["jpeg", "blur"])] == ["clean", "blur", "jpeg"]


def test_an_unknown_scenario_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'low_light'"):
        choose(load_scenarios(), ["lowlight"])


def test_the_hash_follows_the_definition_and_not_its_description(tmp_path):
    ours = load_scenarios()
    words = {**ours["blur"].definition, "description": "in other words"}
    same = load_scenarios(written(tmp_path, {"blur": words}))
    other = load_scenarios(written(tmp_path, {"blur": altering({"op": "gaussian_blur", "sigma_px": 3})}))
    assert definitions_sha256(same.values()) == definitions_sha256(ours.values())
    assert definitions_sha256(other.values()) != definitions_sha256(ours.values())
