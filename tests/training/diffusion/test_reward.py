"""The reward of a ControlNet: its formula, its range of timesteps, its gradient, and wrong settings."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import default_collate

from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES
from dgkit.segmenters.opening import find_source
from dgkit.taxonomies import CAMVID11
from dgkit.training.diffusion.controlnet import ControlNetTask
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, LdmTraining, Objective, RewardSettings
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.reward import Teacher, find_teacher, open_reward, predict_clean
from dgkit.training.diffusion.starting_model import find_training_model, read_controlnet
from tests.models import make_micro_model
from tests.segformers import save_narrow_segformer
from tests.training.diffusion.test_noising import OneFeed


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_segformer(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("reward"), prediction_type=request.param)


def make_task(model: Path, teacher: Path | None, **changes: Any) -> ControlNetTask:
    """Return the task with a reward, or with the same samples and none."""
    settings = None if teacher is None else RewardSettings(teacher=teacher, **changes)
    networks = find_training_model(str(model))
    noising = Noising(networks, OneFeed(), Objective(reward=settings), seed=0, labels=True)
    reward = settings and open_reward(settings, noising.vae, noising.schedule)
    unet = networks.unet()
    return ControlNetTask(read_controlnet(str(model), noising.taxonomy, unet), unet, noising, reward=reward)


def batch_of(task: ControlNetTask, timesteps: list[int]) -> dict[str, torch.Tensor]:
    batch = default_collate([task.sample(index) for index in range(len(timesteps))])
    return {**batch, "timestep": torch.tensor(timesteps)}


def test_the_loss_is_the_plain_one_plus_the_weighted_cross_entropy_of_images_in_range(
    model: Path, teacher: Path
) -> None:
    weights = {name: 1.0 + number for number, name in enumerate(CLASSES)}
    task = make_task(model, teacher, weight=0.25, t=(20, 260), class_weights=weights)
    batch = batch_of(task, [100, 700, 20])
    with torch.no_grad():
        found = task.loss(task.module, batch)
        plain = make_task(model, None)
        expected = plain.loss(plain.module, batch)
        term = 0.0
        for row in (0, 2):  # one at a time, by the definitions
            one = {key: value[row : row + 1] for key, value in batch.items()}
            noised = task.noising.batch(one)
            inputs = (noised.latents, noised.timesteps, noised.text)
            down, middle = task.module(*inputs, noised.condition, return_dict=False)
            output = task.unet(
                *inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
            alpha = task.noising.schedule.alphas_cumprod[one["timestep"]].item()
            if task.noising.schedule.config.prediction_type == "epsilon":
                clean = (noised.latents - (1 - alpha) ** 0.5 * output) / alpha**0.5
            else:
                clean = alpha**0.5 * noised.latents - (1 - alpha) ** 0.5 * output
            image = (task.noising.vae.decode(clean / 0.5).sample / 2 + 0.5).clamp(0, 1)
            source = find_source(teacher)
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (source.mean, source.std))
            logits = source.load().eval()((image - mean) / std)
            logits = functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
            logits = logits[:, [source.classes.index(name) for name in CLASSES]]
            term += float(functional.cross_entropy(logits, one["label"].long(), torch.tensor(list(weights.values()))))
    assert float(found) == pytest.approx(float(expected) + 0.25 * term / 3, rel=1e-4) and term > 0.1


def test_images_of_ignored_and_unknown_pixels_alone_count_nothing(teacher: Path) -> None:
    network = Teacher(find_teacher(teacher))
    labels = torch.full((2, 64, 64), 255, dtype=torch.uint8)
    labels[1, :4] = 3
    errors = network(torch.rand(2, 3, 64, 64), labels)
    assert errors[0] == 0 and errors[1] > 0


def test_other_timesteps_give_the_plain_loss(model: Path, teacher: Path) -> None:
    task, plain = make_task(model, teacher, t=(20, 260)), make_task(model, None)
    batch = batch_of(task, [19, 261])
    with torch.no_grad():
        assert torch.equal(task.loss(task.module, batch), plain.loss(plain.module, batch))


def test_timesteps_are_redrawn_from_the_range(model: Path, teacher: Path) -> None:
    for share, least in ((1.0, 24), (0.0, 0), (0.5, 9)):
        task = make_task(model, teacher, t=(20, 60), share=share)
        inside = [20 <= int(task.sample(i)["timestep"]) <= 60 for i in range(24)]
        assert sum(inside) >= least and (share == 1 or not all(inside))
    task, plain = make_task(model, teacher, share=0.0), make_task(model, None)
    assert torch.equal(task.sample(3)["timestep"], plain.sample(3)["timestep"])


def test_only_the_controlnet_gets_a_gradient_of_the_reward(model: Path, teacher: Path) -> None:
    task, plain = make_task(model, teacher), make_task(model, None)
    assert task.reward is not None
    batch = batch_of(task, [40])
    gradients = []
    for one in (task, plain):
        one.loss(one.module, batch).backward()
        gradients.append(one.module.controlnet_mid_block.weight.grad)
    assert not torch.allclose(*gradients)
    frozen = [task.reward, task.unet, task.noising.vae, task.noising.text.encoder]
    assert not any(p.requires_grad or p.grad is not None for network in frozen for p in network.parameters())


def test_one_step_of_the_true_prediction_gives_the_clean_latents(model: Path) -> None:
    noising = make_task(model, None).noising
    noised = noising.batch(default_collate([noising.sample(i) for i in range(4)]))
    latents = noising.encode(default_collate([noising.sample(i) for i in range(4)]))["latents"]
    steps = noised.timesteps
    near = steps < 600  # close to pure noise, dividing by the signal magnifies rounding
    clean = predict_clean(noising.schedule, noised.target, noised.latents, steps)
    assert torch.allclose(clean[near], latents[near], atol=1e-3) and near.any()


def test_the_teacher_belongs_to_the_identity_of_the_training(model: Path, teacher: Path, tmp_path: Path) -> None:
    first, other = make_task(model, teacher).identity, make_task(model, None).identity
    assert first["teacher"] and first["reward"]["weight"] == 0.5 and "teacher" not in other


def test_teachers_that_cannot_be_used(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the teacher .*missing does not exist"):
        find_teacher(tmp_path / "missing")
    with pytest.raises(UsageError, match="is an ONNX file, which has no gradients; allowed") as error:
        find_teacher(tmp_path / "a.onnx")
    assert "a.safetensors" in error.value.hint
    with pytest.raises(UsageError, match="unknown class 'persn'; known: road") as error:
        Teacher(find_teacher(teacher), class_weights={"persn": 2.0})
    assert "person" in error.value.hint
    shutil.copytree(teacher, tmp_path / "other")
    config = (tmp_path / "other" / "config.json").read_text()
    for number, name in enumerate(CLASSES):
        config = config.replace(f'"{name}"', f'"thing {number}"')
    (tmp_path / "other" / "config.json").write_text(config)
    with pytest.raises(InputError, match="names none of the 19 classes"):
        Teacher(find_teacher(tmp_path / "other"))
    with pytest.raises(InputError, match=r"names none of the 11 classes|cannot be used with the classes of camvid11"):
        Teacher(find_teacher(tmp_path / "other"), CAMVID11)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"t": (260, 20)}, "the first timestep is above the last"),
        ({"t": (-1, 20)}, "greater than or equal to 0"),
        ({"weight": np.nan}, "finite number"),
        ({"weight": -1}, "greater than or equal to 0"),
        ({"share": 2}, "less than or equal to 1"),
        ({"class_weights": {"person": np.inf}}, "finite number"),
    ],
)
def test_wrong_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RewardSettings(teacher=Path("t"), **values)


def test_rewards_that_a_training_cannot_have(model: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t=\[20, 5000\], but the model has the timesteps 0 to 999"):
        make_task(model, teacher, t=(20, 5000))
    common = {"model": "m", "train": {"steps": 1}, "objective": {"reward": {"teacher": "t"}}}
    with pytest.raises(ValueError, match="is for dgkit train controlnet only"):
        LdmTraining.model_validate({**common, "data": {"rows": [{"dataset": "images", "root": "d"}]}})
    labelled = {**common, "data": {"rows": [{"dataset": "labels", "root": "d"}]}}
    with pytest.raises(ValueError, match=r"cannot be combined with train\.cuda_graph"):
        ControlNetTraining.model_validate({**labelled, "train": {"steps": 1, "cuda_graph": True}})
