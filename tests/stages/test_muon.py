"""Muon: its steps against a singular value decomposition and against torch's own."""

import pytest
import torch
from torch import nn

from normpipe.stages.networks.compact import CompactEncoder
from normpipe.stages.training.muon import Muon, inner_weights, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 200), (200, 16)])
def test_singular_vectors_stay_and_values_become_alike(shape):
    """As the iteration's authors say, 0.7 to 1.2; tiny ones are on their way."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    made = torch.diagonal(u.T @ orthogonal(matrix) @ v.T)
    large = values > 0.05 * values.max()
    assert ((made[large] > 0.65) & (made[large] < 1.25)).all()
    torch.testing.assert_close(u @ torch.diag(made) @ v, orthogonal(matrix), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(192, 1728), (320, 1024), (24, 24), (200, 16)])
def test_multiplying_the_polynomials_first_changes_no_number(shape):
    """Against the iteration as its authors write it, in float64; values over six decades."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix *= torch.logspace(0, -6, shape[0])[:, None]
    matrix[3] = 0
    plain = matrix.double() / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain
    made = orthogonal(matrix).double()
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-4)


def test_rows_whose_gradient_is_long_gone_take_no_part():
    """Left in, numbers below 1e-38 make a step 100 times as slow on a CPU."""
    alive = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    gone = torch.full((20, 60), 1e-41)
    assert (gone > 0).all() and (gone < torch.finfo(torch.float32).tiny).all()
    made = orthogonal(torch.cat([alive, gone]))
    assert (made[20:] == 0).all()
    torch.testing.assert_close(made[:20], orthogonal(alive))


def test_two_steps_are_those_of_torch():
    """``torch.optim.Muon`` computes in bf16: the same to about a hundredth."""
    torch.manual_seed(0)
    start = torch.randn(40, 24)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], lr=0.1, weight_decay=0.2)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2)
    for _ in range(2):
        gradient = torch.randn(40, 24)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    moved = theirs.detach() - start
    assert (ours.detach() - theirs.detach()).norm() < 0.02 * moved.norm()


def test_a_convolution_is_a_matrix_in_any_memory_format():
    torch.manual_seed(0)
    start, gradient = torch.randn(20, 16, 3, 3), torch.randn(20, 16, 3, 3)
    flat = nn.Parameter(start.flatten(1).clone())
    flat.grad = gradient.flatten(1).clone()
    Muon([flat], lr=0.1).step()
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=layout)
        Muon([weight], lr=0.1).step()
        torch.testing.assert_close(weight.detach().flatten(1), flat.detach())


def test_what_sees_and_what_reads_out_is_left_to_another():
    encoder = CompactEncoder(53)
    inner = {id(weight) for weight in inner_weights(encoder)}
    names = {name for name, weight in encoder.named_parameters() if id(weight) in inner}
    assert {"body.3.weight", "squeeze.weight", "hidden.weight"} <= names
    assert not any(name.split(".")[0] in ("coefficients", "landmarks", "pose") for name in names)
    assert "body.0.weight" not in names and not any(name.endswith("bias") for name in names)
    assert not any(weight.ndim < 2 for weight in inner_weights(encoder))
