"""Muon: orthogonal updates of one size, skipped steps, and exact resumes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ddpm_cli.core.config.run import OptimiserConfig
from ddpm_cli.core.training.muon import MOMENTUM, RMS, Muon, hidden_matrices, orthogonalised

CONFIG = replace(OptimiserConfig(), lr=0.01)


def matrices(count: int, rows: int, columns: int) -> torch.Tensor:
    """Random matrices (count, rows, columns) with singular values from 0.1 to 1."""
    random = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(count, rows, columns, generator=random), False)
    values = torch.linspace(0.1, 1, min(rows, columns))
    return u * values @ v


def test_orthogonalised_matrices_keep_singular_vectors_and_have_values_about_1() -> None:
    for shape in ((3, 8, 8), (2, 5, 40), (2, 40, 5)):
        before = matrices(*shape)
        u, _, v = torch.linalg.svd(before, False)
        core = (
            u.mT @ torch.stack(orthogonalised(list(before))) @ v.mT
        )  # diagonal, in the same bases
        values = core.diagonal(dim1=-2, dim2=-1)
        assert 0.65 < values.min() <= values.max() < 1.25  # the published bounds, 0.7 to 1.2
        torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-4, rtol=0)


def small_network() -> nn.Module:
    """A network with a hidden convolution, a hidden matrix and ends."""
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {
            "inputs": nn.Conv2d(2, 6, 3),
            "hidden": nn.Conv2d(6, 12, 3),
            "linear": nn.Linear(12, 5),
            "outputs": nn.Linear(5, 2),
        }
    )
    return network.to(memory_format=torch.channels_last)


def with_gradients(network: nn.Module, seed: int) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        gradient = torch.randn(parameter.shape, generator=random)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)  # laid out as the parameter
    return network


def step(optimiser: Muon, *, skipped: bool = False) -> None:
    optimiser.found_inf = torch.tensor(float(skipped))
    optimiser.step()


def test_hidden_matrices_move_by_adamw_s_root_mean_square_and_the_rest_by_adamw() -> None:
    network, reference = small_network(), small_network()
    assert [tuple(p.shape) for p in hidden_matrices(network)] == [(12, 6, 3, 3), (5, 12)]
    optimiser = Muon(with_gradients(network, 1), CONFIG)
    step(optimiser)
    for parameter, before in zip(hidden_matrices(network), hidden_matrices(reference), strict=True):
        change = (parameter - before).detach()
        rows, columns = change.flatten(1).shape
        # A matrix of min(M, N) singular values s has the mean square sum(s^2) / (M N).
        assert 0.7 < change.square().mean().sqrt() / (RMS * CONFIG.lr) < 1.2
        largest = torch.linalg.matrix_norm(change.flatten(1), 2)
        assert largest < 1.25 * RMS * math.sqrt(max(rows, columns)) * CONFIG.lr
    adamw = torch.optim.AdamW(reference.parameters(), CONFIG.lr, CONFIG.betas, weight_decay=0)
    with_gradients(reference, 1)
    adamw.step()
    for name in ("inputs.weight", "outputs.weight", "hidden.bias"):
        torch.testing.assert_close(network.get_parameter(name), reference.get_parameter(name))


def test_momentum_is_averaged_with_nesterov_s_look_ahead() -> None:
    network = small_network()
    optimiser = Muon(network, CONFIG)
    gradients = []
    for seed in (1, 2):
        with_gradients(network, seed)
        gradients.append(network["linear"].weight.grad.clone())  # type: ignore[index]
        before = network["linear"].weight.detach().clone()  # type: ignore[index]
        step(optimiser)
    momentum = (1 - MOMENTUM) * (MOMENTUM * gradients[0] + gradients[1])
    (direction,) = orthogonalised([(1 - MOMENTUM) * gradients[1] + MOMENTUM * momentum])
    expected = before - CONFIG.lr * RMS * math.sqrt(12) * direction
    torch.testing.assert_close(network["linear"].weight.detach(), expected)  # type: ignore[index]


def test_a_skipped_step_changes_nothing_and_a_restored_state_goes_on_exactly() -> None:
    network = small_network()
    optimiser = Muon(network, CONFIG)
    step(Muon(with_gradients(small_network(), 1), CONFIG))
    with_gradients(network, 1)
    step(optimiser)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    state = copy.deepcopy(optimiser.state_dict())  # as a snapshot: no tensors in use
    network["linear"].weight.grad.fill_(math.nan)  # type: ignore[index]
    step(optimiser, skipped=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    restored = small_network()
    restored.load_state_dict(weights)
    other = Muon(restored, CONFIG)
    other.load_state_dict(state)
    for one, by in ((network, optimiser), (restored, other)):
        with_gradients(one, 2)
        step(by)
    for name, value in network.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_updates_of_matrices_are_those_of_torch_s_muon() -> None:
    """Torch iterates in bfloat16, so directions agree to a percent."""
    torch.manual_seed(0)
    mine, torchs = nn.Linear(24, 40), nn.Linear(24, 40)
    torchs.load_state_dict(mine.state_dict())
    optimiser = Muon(mine, replace(CONFIG, weight_decay=0.1))
    reference = torch.optim.Muon(
        [torchs.weight],
        RMS / 0.2 * CONFIG.lr,
        0.2 / RMS * 0.1,
        MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    for seed in range(3):
        before = mine.weight.detach().clone()
        with_gradients(mine, seed), with_gradients(torchs, seed)
        step(optimiser)
        torchs.weight.data.copy_(before)
        reference.step()
        changes = [(network.weight - before).detach() for network in (mine, torchs)]
        torch.testing.assert_close(changes[0], changes[1], rtol=0.05, atol=2e-4)
