"""Angles are those of scipy, look at symmetry, and send back a gradient that can be followed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from adapters.rtdetr_pose import process
from adapters.rtdetr_pose.names import SHAPES_NAMES, SHAPES_SYMMETRIES
from adapters.rtdetr_pose.rotations import (
    about_normal,
    axis_angle,
    check_symmetries,
    geodesic_angle,
    matrix_from_rot6d,
    symmetric_angle,
)
from bench.errors import UsageError
from fixtures.shapes.render import categories

seeds = st.integers(0, 2**31)


def rotations(seed, count=8):
    return torch.from_numpy(Rotation.random(count, np.random.default_rng(seed)).as_matrix())


@given(seed=seeds)
@settings(deadline=None)
def test_six_numbers_give_a_rotation_whose_first_two_rows_they_span(seed):
    six = torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 6)))
    found = matrix_from_rot6d(six)
    identity = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    torch.testing.assert_close(found @ found.transpose(1, 2), identity)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(found[:, 0], six[:, :3] / six[:, :3].norm(dim=1, keepdim=True))
    # the second row lies in the plane of both vectors
    torch.testing.assert_close((found[:, 2] * six[:, 3:]).sum(1), torch.zeros(6, dtype=torch.float64))


def test_the_vectors_are_rows_not_columns():
    found = matrix_from_rot6d(torch.tensor([[0.0, 1, 0, -1, 0, 0]]))
    assert found[0].tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]


@given(seed=seeds)
@settings(deadline=None)
def test_a_rotation_survives_the_way_through_six_numbers_in_torch_and_in_numpy(seed):
    true = rotations(seed)
    six = true[:, :2].flatten(1)
    torch.testing.assert_close(matrix_from_rot6d(six), true)
    np.testing.assert_allclose(process.matrix_from_rot6d(six.numpy()), true, atol=1e-6)


@given(seed=seeds)
@settings(deadline=None)
def test_the_angle_is_scipys(seed):
    a, b = rotations(seed), rotations(seed + 1)
    expected = (Rotation.from_matrix(a.numpy()).inv() * Rotation.from_matrix(b.numpy())).magnitude()
    np.testing.assert_allclose(geodesic_angle(a, b), expected, atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 1e-5, 0.5, 90, 179.5, 179.99999])
def test_the_angle_is_exact_where_the_cosine_is_flat(degrees):
    a = rotations(3)
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, 0, math.radians(degrees)]).as_matrix())
    np.testing.assert_allclose(geodesic_angle(a, a @ turn), math.radians(degrees), atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 1e-9, 1e-4, 90, 180 - 1e-4, 180])
def test_the_gradient_is_finite_and_bounded_everywhere(degrees):
    """acos would give an infinite one at 0 and at 180 degrees."""
    true = rotations(1, 4)
    turn = torch.from_numpy(Rotation.from_rotvec([math.radians(degrees), 0.0, 0]).as_matrix())
    six = (true @ turn)[:, :2].flatten(1).requires_grad_()
    geodesic_angle(matrix_from_rot6d(six), true).sum().backward()
    assert torch.isfinite(six.grad).all()
    assert six.grad.abs().max() < 5


def test_the_gradient_is_finite_for_vectors_without_a_direction():
    six = torch.zeros(2, 6, dtype=torch.float64)
    six[1] = torch.tensor([1.0, 0, 0, 2, 0, 0])
    six.requires_grad_()
    geodesic_angle(matrix_from_rot6d(six), rotations(0, 2)).sum().backward()
    assert torch.isfinite(six.grad).all()


def test_the_gradient_is_that_of_finite_differences():
    six = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    true, orders = rotations(2, 4), torch.tensor([1, 0, 4, 5])
    assert torch.autograd.gradcheck(lambda x: symmetric_angle(matrix_from_rot6d(x), true, orders), (six,))


def test_following_the_gradient_finds_the_rotation():
    six = torch.tensor([[0.1, -1, 0.2, 0.4, 0, 1]], requires_grad=True)
    true = rotations(5, 1).float()
    optimizer = torch.optim.Adam([six], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        angle = geodesic_angle(matrix_from_rot6d(six), true).sum()
        angle.backward()
        optimizer.step()
    assert float(angle.detach()) < 0.05


@given(seed=seeds, order=st.sampled_from([1, 4, 5, 6]), step=st.integers(0, 30))
@settings(deadline=None)
def test_turns_of_the_symmetry_cost_nothing_and_others_do(seed, order, step):
    true = rotations(seed)
    orders = torch.full((8,), order)
    turn = about_normal(torch.tensor(2 * math.pi * step / order, dtype=torch.float64))
    np.testing.assert_allclose(symmetric_angle(true @ turn, true, orders), 0, atol=1e-7)
    half = about_normal(torch.tensor(math.pi / order, dtype=torch.float64))
    np.testing.assert_allclose(symmetric_angle(true @ half, true, orders), math.pi / order, atol=1e-7)


@given(seed=seeds)
@settings(deadline=None)
def test_the_angle_up_to_a_symmetry_is_the_least_over_its_turns(seed):
    predicted, true = rotations(seed), rotations(seed + 1)
    for order in (1, 4, 5, 6):
        turns = [about_normal(torch.tensor(2 * math.pi * k / order, dtype=torch.float64)) for k in range(order)]
        least = torch.stack([geodesic_angle(predicted, true @ turn) for turn in turns]).amin(0)
        torch.testing.assert_close(symmetric_angle(predicted, true, torch.full((8,), order)), least)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_full_symmetry_is_the_limit_of_ever_more_turns(seed):
    predicted, true = rotations(seed), rotations(seed + 1)
    many = symmetric_angle(predicted, true, torch.full((8,), 2000))
    full = symmetric_angle(predicted, true, torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(full, many, atol=2e-3, rtol=0)
    torch.testing.assert_close(full, axis_angle(predicted, true))


@given(seed=seeds)
@settings(deadline=None)
def test_a_common_rotation_of_the_camera_changes_no_angle(seed):
    predicted, true, camera = rotations(seed), rotations(seed + 1), rotations(seed + 2, 1)
    orders = torch.tensor([0, 1, 4, 4, 5, 6, 4, 1])
    moved = symmetric_angle(camera @ predicted, camera @ true, orders)
    torch.testing.assert_close(moved, symmetric_angle(predicted, true, orders))


def test_the_symmetries_are_those_of_the_generated_set():
    listed = categories()
    assert tuple(c["name"] for c in listed) == SHAPES_NAMES
    assert tuple(c["symmetry"] for c in listed) == SHAPES_SYMMETRIES


def test_symmetries_of_another_number_of_classes_are_refused():
    assert check_symmetries([1, 0], 2) == (1, 0)
    for wrong in ([1], [1, -1]):
        with pytest.raises(UsageError):
            check_symmetries(wrong, 2)
