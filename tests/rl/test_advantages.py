import pytest
import torch

from hart_lite.errors import HartError
from hart_lite.rl.advantages import ap_weights, group_advantages


def close(tensor, expected, tolerance=1e-6):
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=tensor.dtype), rtol=0, atol=tolerance)


def test_worked_example_of_the_method():
    """Mean 0.25, std 0.5: A = (0.75, -0.25, -0.25, -0.25) / 0.5001."""
    rewards = [[1, 0, 0, 0]]
    close(group_advantages(rewards), [[1.4997, -0.4999, -0.4999, -0.4999]], 5e-5)
    mu1, mu2 = ap_weights(rewards, k=0.6, beta=0.01)
    close(mu1, [[1.45, 0.85, 0.85, 0.85]])
    close(mu2, [[0.0055, 0.0115, 0.0115, 0.0115]])


def test_groups_do_not_touch_each_other():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    a = 0.5 / (0.5**0.5 + 1e-4)  # Bessel: the variance of (1, 0) is 0.5
    close(group_advantages(rewards), [[a, -a], [0.0, 0.0], [-a, a]])
    mu1, mu2 = ap_weights(rewards, k=0.4, beta=0.1)
    close(mu1, [[1.2, 0.8], [1.0, 1.0], [0.8, 1.2]])
    close(mu2, [[0.08, 0.12], [0.1, 0.1], [0.12, 0.08]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
def test_a_flat_group_gives_exactly_nothing(dtype, value):
    rewards = torch.full((2, 7), value, dtype=dtype)
    assert torch.equal(group_advantages(rewards), torch.zeros(2, 7, dtype=dtype))
    mu1, mu2 = ap_weights(rewards, k=0.6, beta=0.01)
    assert torch.equal(mu1, torch.ones_like(rewards))
    assert torch.equal(mu2, torch.full_like(rewards, 0.01))


def test_k_zero_is_grpo_bit_for_bit():
    rewards = (torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    mu1, mu2 = ap_weights(rewards, k=0, beta=0.013)
    assert torch.equal(mu1, torch.ones_like(rewards))
    assert torch.equal(mu2, torch.full_like(rewards, 0.013))


def test_dtype_in_is_dtype_out():
    for dtype in (torch.float32, torch.float64):
        rewards = torch.tensor([[1, 0]], dtype=dtype)
        assert {group_advantages(rewards).dtype, *(mu.dtype for mu in ap_weights(rewards, k=0.6, beta=0.01))} == {dtype}
    assert group_advantages([[1, 0]]).dtype == torch.float32


@pytest.mark.parametrize("rewards", [[[1.0]], [1.0, 0.0], [[]]])
def test_what_is_no_group_is_refused(rewards):
    with pytest.raises(HartError, match="G of at least 2"):
        group_advantages(rewards)
    with pytest.raises(HartError, match=r"rollout\.samples"):
        ap_weights(rewards, k=0.6, beta=0.01)
