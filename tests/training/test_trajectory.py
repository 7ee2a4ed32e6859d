import pytest
import torch

from jitlab.diffusion.samplers import SOLVERS
from jitlab.training.signal import image_signal, point_signal
from jitlab.training.trajectory import Trajectory
from tests.training.test_module import module

TARGET = torch.tensor([[0.5, -0.25], [3.0, 1.0]])


def watched(solver: str, times: list[float]) -> tuple[Trajectory, torch.Tensor]:
    """Sample points with the exact velocity to TARGET; the noise is -TARGET."""
    trajectory = Trajectory(point_signal(2))

    def velocity(z, t):
        trajectory(z, t, TARGET)
        return (TARGET - z) / max(1 - t, 1e-3)

    return trajectory, SOLVERS[solver](velocity, -TARGET, times)


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_on_an_exact_path_the_state_is_the_interpolation_and_the_predicted_x_the_data(solver):
    trajectory, final = watched(solver, [step / 10 for step in range(11)])
    assert trajectory.times == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    rows = trajectory.rows(final)
    assert rows.shape == (2, 2, 6, 2)
    for place, t in enumerate(trajectory.times):
        torch.testing.assert_close(rows[:, 0, place], t * TARGET - (1 - t) * TARGET)
        torch.testing.assert_close(rows[:, 1, place], TARGET)


def test_a_coarse_grid_keeps_the_times_that_it_stops_at():
    assert watched("heun", [0.0, 0.5, 1.0])[0].times == [0.0, 0.5, 1.0]
    assert watched("euler", [0.0, 0.25, 0.3, 0.95, 1.0])[0].times == [0.0, 0.25, 0.95, 1.0]
    assert watched("euler", [0.0, 0.2 - 1e-9, 0.39, 1.0])[0].times == [0.0, 0.2 - 1e-9, 1.0]


def test_of_two_looks_at_the_same_t_the_later_counts():
    trajectory, zeros = Trajectory(point_signal(1)), torch.zeros(1, 1)
    trajectory(zeros, 0.0, zeros)
    trajectory(zeros + 1, 0.2, zeros)
    trajectory(zeros + 2, 0.2, zeros + 2.8)
    trajectory(zeros + 9, 0.3, zeros)
    rows = trajectory.rows(zeros + 5)
    assert rows[0, 0, :, 0].tolist() == [0.0, 2.0, 5.0]
    assert rows[0, 1, :, 0].tolist() == pytest.approx([0.0, 2.8, 5.0])


def test_images_are_kept_as_the_data_set_stores_them():
    trajectory = Trajectory(image_signal(1, 1))
    trajectory(torch.full((1, 1, 1, 1), -1.0), 0.0, torch.full((1, 1, 1, 1), 8.0))
    rows = trajectory.rows(torch.full((1, 1, 1, 1), 7, dtype=torch.uint8))
    assert rows.dtype == torch.uint8
    assert rows.flatten().tolist() == [0, 7, 255, 7]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_watching_changes_no_sample_and_sees_where_it_starts_and_ends(scale):
    made = module("v", sampler__guidance_scale=scale)
    labels, trajectory = torch.arange(3), Trajectory(point_signal(1))
    images = made.generate(range(3), labels, trajectory)
    assert torch.equal(images, made.generate(range(3), labels))
    rows = trajectory.rows(torch.zeros(3, 3, 16, 16))
    assert trajectory.times == [0.0, 0.25, 0.5, 0.75, 1.0]
    # The last step goes straight to the predicted x.
    assert torch.equal(made.signal.from_signal(rows[:, 1, 3]), images)


class Constant(torch.nn.Module):
    """A network that says the same everywhere, and half of it without a class."""

    def forward(self, z, t, y):
        return torch.where(y == 10, 0.25, 0.5).reshape(-1, 1, 1, 1).expand_as(z)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_inside_the_clips_the_predicted_x_is_that_of_table_1(scale):
    # At t = 0 for eps and behind 1 - clip for x, the straight line along the velocity does not lead to it.
    guided = 0.25 + scale * 0.25
    seen: dict[str, list[tuple[torch.Tensor, float, torch.Tensor]]] = {"x": [], "eps": []}
    for arm, looks in seen.items():
        made = module(
            arm,
            sampler__times=[0, 0.02, 0.5, 0.97, 1],
            sampler__guidance_scale=scale,
            sampler__guidance_interval=[0, 1],
            sampler__solver="euler",
        )
        made.network = Constant()

        def watch(z: torch.Tensor, t: float, x: torch.Tensor, looks=looks) -> None:
            looks.append((z, t, x))

        made.generate(range(2), torch.arange(2), watch)
        assert [t for _, t, _ in looks] == [0.0, 0.02, 0.5, 0.97]
    for _, _, x in seen["x"]:
        torch.testing.assert_close(x, torch.full_like(x, guided))
    for z, t, x in seen["eps"]:
        torch.testing.assert_close(x, (z - (1 - t) * guided) / max(t, 0.05), rtol=1e-4, atol=1e-4)
