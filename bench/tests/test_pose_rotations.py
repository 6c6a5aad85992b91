import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bench.posing.rotations import (
    about_z,
    geodesic_deg,
    is_rotation,
    reversed_in_depth,
    rotation_from_rows6,
    symmetric_deg,
)

SEEDS = st.integers(0, 10_000)
ORDERS = st.sampled_from([0, 1, 2, 3, 4, 5, 6])


def rotations(seed, count=4):
    return Rotation.random(count, random_state=seed).as_matrix()


@given(SEEDS)
def test_the_angle_is_scipys(seed):
    a, b = rotations(seed), rotations(seed + 1)
    expected = np.degrees((Rotation.from_matrix(b).inv() * Rotation.from_matrix(a)).magnitude())
    np.testing.assert_allclose(geodesic_deg(a, b), expected, atol=1e-9)


@pytest.mark.parametrize("radians", [0.0, 1e-12, 1e-9, 1e-7, 1e-3, 3.0, np.pi - 1e-7, np.pi - 1e-10, np.pi])
def test_the_angle_keeps_its_digits_near_0_and_near_180_degrees(radians):
    base = rotations(3, 1)
    turned = Rotation.from_rotvec([0, radians, 0]).as_matrix() @ base
    assert geodesic_deg(turned, base)[0] == pytest.approx(np.degrees(radians), rel=1e-6, abs=3e-14)


@given(SEEDS, SEEDS, ORDERS)
def test_the_angle_does_not_depend_on_the_camera(seed, common, order):
    a, b, turn = rotations(seed), rotations(seed + 1), rotations(common, 1)
    symmetry = np.full(4, order)
    np.testing.assert_allclose(symmetric_deg(turn @ a, turn @ b, symmetry), symmetric_deg(a, b, symmetry), atol=1e-8)


@given(SEEDS, ORDERS, st.integers(0, 11))
def test_turning_either_by_a_symmetry_changes_nothing(seed, order, times):
    a, b = rotations(seed), rotations(seed + 1)
    step = about_z(np.array(2 * np.pi * times / order if order else 0.1 * times))
    symmetry = np.full(4, order)
    plain = symmetric_deg(a, b, symmetry)
    np.testing.assert_allclose(symmetric_deg(a @ step, b, symmetry), plain, atol=1e-8)
    np.testing.assert_allclose(symmetric_deg(a, b @ step, symmetry), plain, atol=1e-8)


@given(SEEDS, st.sampled_from([1, 2, 3, 4, 5, 6]))
def test_a_symmetric_error_is_the_least_over_all_turns_by_brute_force(seed, order):
    a, b = rotations(seed), rotations(seed + 1)
    turns = [Rotation.from_euler("z", 360 * k / order, degrees=True) for k in range(order)]
    brute = np.min([np.degrees((Rotation.from_matrix(b).inv() * Rotation.from_matrix(a) * t).magnitude())
                    for t in turns], axis=0)  # fmt: skip
    np.testing.assert_allclose(symmetric_deg(a, b, np.full(4, order)), brute, atol=1e-8)


@given(SEEDS)
def test_full_symmetry_is_the_limit_of_many_turns_and_leaves_the_axis_only(seed):
    a, b = rotations(seed), rotations(seed + 1)
    many = symmetric_deg(a, b, np.full(4, 3600))
    whole = symmetric_deg(a, b, np.zeros(4, int))
    assert (whole <= many + 1e-9).all()
    np.testing.assert_allclose(whole, many, atol=0.06)  # half a step of a tenth of a degree


def test_rows_of_different_symmetry_are_measured_each_by_its_own():
    base = np.eye(3)[None].repeat(3, 0)
    turned = about_z(np.radians([90.0, 90.0, 90.0]))
    np.testing.assert_allclose(symmetric_deg(turned, base, np.array([1, 4, 0])), [90, 0, 0], atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_gives_nan_under_every_symmetry(order, value):
    broken = np.eye(3)[None].copy()
    broken[0, 1, 2] = value
    assert np.isnan(symmetric_deg(broken, np.eye(3)[None], np.array([order]))).all()


@given(SEEDS)
def test_the_reversed_tilt_is_a_rotation_with_the_same_weak_perspective_picture(seed):
    a = rotations(seed)
    other = reversed_in_depth(a)
    assert is_rotation(other).all()
    np.testing.assert_array_equal(other[:, :2, :2], a[:, :2, :2])
    np.testing.assert_array_equal(reversed_in_depth(other), a)


def test_what_is_no_rotation_is_told_from_what_is():
    good = rotations(0)
    bad = np.stack([good[0] * 1.1, np.diag([1.0, 1.0, -1.0]), np.full((3, 3), np.nan), np.zeros((3, 3))])
    assert is_rotation(good.astype(np.float16)).all()
    assert not is_rotation(bad).any()


@given(SEEDS, st.floats(0.01, 50), st.floats(-3, 3))
def test_two_stretched_and_slanted_rows_give_their_rotation(seed, scale, slant):
    wanted = rotations(seed)
    six = np.concatenate([scale * wanted[:, 0], wanted[:, 1] + slant * wanted[:, 0]], axis=1)
    np.testing.assert_allclose(rotation_from_rows6(six), wanted, atol=1e-9)


@pytest.mark.parametrize("six", [[0] * 6, [1, 0, 0, 2, 0, 0], [np.nan, 0, 0, 0, 1, 0], [np.inf, 0, 0, 0, 1, 0]])
def test_two_rows_that_span_no_plane_give_no_rotation(six):
    assert np.isnan(rotation_from_rows6(np.array([six], float))).all()
