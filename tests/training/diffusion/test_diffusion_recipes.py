"""Recipes: every YAML in training/ is valid, sections are independent, and the published constants are kept."""

import math

import pytest

from dgkit.errors import InputError, UsageError
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, load_training
from dgkit.training.loop.optimisation import Optimisation

RECIPES = ("sd15_gta.yaml", "sd15_cityscapes.yaml")


@pytest.fixture
def recipe(pytestconfig):
    return lambda name: pytestconfig.rootpath / "training" / name


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("section", ["ldm", "controlnet"])
def test_the_published_recipes_are_valid_and_open_with_their_commands(recipe, name, section):
    assert load_training(section, recipe(name)).size == 512
    head = recipe(name).read_text().split("\n\n")[0]
    for words in (f"dgkit train {section} training/{name}", "Hardware:", "Time:", "Expected:"):
        assert words in head


@pytest.mark.parametrize("name", RECIPES)
def test_the_ldm_constants_are_those_of_the_published_fine_tune(recipe, name):
    ldm = load_training("ldm", recipe(name))
    assert ldm.model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    (row,) = ldm.data.rows
    assert row.dataset == "images" and row.rescale == (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    assert (ldm.train.steps, ldm.train.batch, ldm.train.accumulation) == (30_000, 2, 2)
    assert (ldm.train.lr, ldm.train.schedule, ldm.train.precision) == (2e-6, "constant", "fp16")
    assert ldm.gradient_checkpointing and ldm.lora is None and ldm.objective.min_snr_gamma is None
    assert (ldm.train.checkpoint_every, ldm.train.validate_every) == (1000, 200)


@pytest.mark.parametrize(("name", "images"), [("sd15_gta.yaml", 24_966), ("sd15_cityscapes.yaml", 2_975)])
def test_the_controlnet_constants_are_the_published_ones(recipe, name, images):
    controlnet = load_training("controlnet", recipe(name))
    assert controlnet.model == str(load_training("ldm", recipe(name)).out)
    assert (controlnet.train.batch, controlnet.train.accumulation, controlnet.train.lr) == (8, 4, 1e-5)
    assert controlnet.train.steps == 100 * math.ceil(math.ceil(images / 2) / 4)
    data = controlnet.data
    assert (data.sampling, data.rare_share, data.temperature, data.min_pixels) == ("rare", 1.0, 0.01, 3000)
    assert (data.captions, data.empty_prompt, data.thin_prompt) == ("crop", 0.0, 0.0)
    rescale = (1.0,) if "gta" in name else (0.5, 0.75, 1.0, 1.25, 1.5)
    assert [row.rescale for row in data.rows] == [rescale]
    assert (controlnet.train.checkpoint_every, controlnet.train.validate_every) == (2000, 1000)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("section", ["ldm", "controlnet"])
def test_the_optimiser_is_the_published_one(recipe, name, section):
    train: Optimisation = load_training(section, recipe(name)).train
    assert (train.optimizer, train.beta1, train.beta2, train.eps) == ("adamw", 0.9, 0.999, 1e-8)
    assert (train.weight_decay, train.clip, train.ema, train.schedule) == (1e-2, 1.0, 0, "constant")


def test_sets_are_relative_to_the_section_and_out_overrides(recipe, tmp_path):
    loaded = load_training("ldm", recipe(RECIPES[0]), ["train.steps=7", "model=random:sd15"], tmp_path / "out")
    assert (loaded.train.steps, loaded.model, loaded.out) == (7, "random:sd15", tmp_path / "out")


def test_a_missing_section_is_named(recipe):
    with pytest.raises(UsageError, match="no section 'vae'"):
        load_training("vae", recipe(RECIPES[0]))


def test_an_unknown_key_is_named_with_its_section(recipe):
    with pytest.raises(UsageError, match=r"unknown key 'ldm\.train\.speed'"):
        load_training("ldm", recipe(RECIPES[0]), ["train.speed=3"])


def test_a_recipe_without_an_output_folder_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("ldm: {model: m, data: {rows: [{dataset: images, root: x}]}, train: {steps: 1}}")
    with pytest.raises(UsageError, match="no output folder"):
        load_training("ldm", path)
    with pytest.raises(InputError):
        load_training("ldm", tmp_path / "none.yaml")


def test_a_controlnet_needs_label_maps():
    values = {"model": "m", "data": {"rows": [{"dataset": "images", "root": "x"}]}, "train": {"steps": 1}}
    with pytest.raises(ValueError, match="every row must have label maps"):
        ControlNetTraining.model_validate(values)


def test_the_sections_of_other_commands_may_be_incomplete(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "vae: {data: 3}\nldm: {model: m, out: o, data: {rows: [{dataset: city}]}, train: {steps: 1}}\ncontrolnet:\n"
    )
    assert load_training("ldm", path).model == "m"
    with pytest.raises(UsageError, match=r"vae\.model is required"):
        load_training("vae", path)
    with pytest.raises(UsageError, match="has no section 'controlnet'"):
        load_training("controlnet", path)


def test_an_unknown_section_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("ldms: {}\nldm: {model: m}\n")
    with pytest.raises(UsageError, match="unknown section 'ldms', allowed: vae, ldm, controlnet"):
        load_training("ldm", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "text",
    [
        *("ldm: 3", "ldm: [1, 2]", "ldm: null", "ldm: text", "[ldm]", "3: {}", "ldm: {1: 2}", "ldm: {model: [1]}"),
        *("ldm: {model: m, train: 7}", "ldm: {model: m, data: {rows: 3}}", "ldm: {model: m, data: {rows: [3]}}"),
        *(f"ldm: {{model: m, out: o, data: {{rows: [{{dataset: city}}]}}, train: {train}}}" for train in (
            *("{steps: x}", "{steps: 1.5}", "{steps: 1, lr: .nan}", "{steps: 1, lr: [1]}", "{steps: 1e400}"),
            *("{steps: 100000000000}", "{steps: true, seed: 1}", "{steps: 1, precision: 3}", "{steps: 1, lr: .inf}"),
        )),
        f"ldm: {{model: m, out: o, seed: {10**30}, data: {{rows: [{{dataset: city}}]}}, train: {{steps: 1}}}}",
    ],
)  # fmt: skip
def test_wrong_types_are_one_line(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises((UsageError, InputError)) as caught:
        load_training("ldm", tmp_path / "recipe.yaml")
    assert caught.value.message
