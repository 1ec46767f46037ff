"""The settings of a run in an existing folder: those in its config.yaml, with what the call states itself."""

from collections.abc import Mapping, Set
from typing import Any

from dgkit.errors import OutputError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.settings import check_count, chosen_preset, resolve_paths
from dgkit.generation.writer import OutputFolder, refuse_changes
from dgkit.resources import usable_cores
from dgkit.taxonomies import find_taxonomy

# Values that model, label maps or machine determine: stated as None or "auto" they are those of the folder.
_DETERMINED = frozenset(
    ("engine", "dtype", "batch", "preset", "size", "label_scale", "guidance_scale", "spacing", "source_digest",
     "model_digest", "judge_digest", "jobs_digest", "lora_digest", "taxonomy")
)  # fmt: skip
_SOURCES = ("jobs", "labels", "dataset", "arrays", "world")


def run_settings(folder: OutputFolder, given: GenerateConfig) -> GenerateConfig:
    """Return the settings of a run, with absolute paths: ``given``, or those of the folder if there is one.

    In an existing folder only what ``given`` states is compared with config.yaml, and the rest is taken from there.
    Digests are left to be found again, because paths may differ as long as the content does not. Raises OutputError for
    a stated setting that gives other images, and what :meth:`OutputFolder.check` raises.
    """
    old, config = folder.check(), resolve_paths(given)
    if old is None:
        return config
    stated = _stated(given, config)
    lent = old.model_copy(update={"rebuild": given.rebuild, **stated})
    refuse_changes(folder.path, old, lent)
    if lent.jobs is not None:
        check_count(lent.count, old.count)
    again = ("model_digest", "judge_digest", "jobs_digest", "lora_digest")
    digests = {key: getattr(given, key) for key in again}
    if lent.world is None:  # the height of city scenes may depend on the digest
        digests["source_digest"] = given.source_digest
    few_cores = isinstance(lent.workers, int) and "workers" not in stated and lent.workers > len(usable_cores())
    return lent.model_copy(update={**digests, **({"workers": "auto"} if few_cores else {})})


def with_spacing(folder: OutputFolder, config: GenerateConfig, scheduler: Mapping[str, Any]) -> GenerateConfig:
    """Return the settings with the timestep spacing that preset and scheduler config give, if they state none.

    Earlier versions did not record it, and sampled ``dpm++2m`` with ``leading`` where a scheduler config has no
    spacing; now that is ``linspace``, as in diffusers. Raises OutputError for a folder of which nothing tells which of
    the two it has, and for a stated spacing other than that of an earlier version's folder.
    """
    from dgkit.diffusion.timesteps import chosen_spacing

    preset = chosen_preset(config)
    found = chosen_spacing(scheduler, preset.solver, preset.spacing)
    old = folder.check()
    if old is not None and old.spacing is None:
        before = chosen_preset(old.model_copy(update={"preset": config.preset}))
        changed = before.solver == "dpm++2m" and before.spacing is None and "timestep_spacing" not in scheduler
        usual = chosen_spacing(scheduler, before.solver, before.spacing)
        if changed and config.spacing is None:
            raise OutputError(
                f"{folder.path} does not state the timestep spacing of its images: earlier versions of dgkit used "
                "leading for this model, later ones linspace",
                f"dgkit generate {folder.path} --set spacing=leading, or linspace; or choose another output folder",
            )
        if not changed and found != usual:
            raise OutputError(
                f"{folder.path} was made with other settings (spacing: {usual} -> {found})",
                "omit spacing to continue it, or choose another output folder",
            )
    return config.model_copy(update={"spacing": found})


def _stated(given: GenerateConfig, config: GenerateConfig) -> dict[str, Any]:
    """Return the settings that ``given`` states, with the values of ``config``, the same settings with full paths."""
    keys: Set[str] = given.model_fields_set
    if "engine_recipe" in keys and given.engine_recipe is not None:
        keys = keys | {"engine", "dtype"}
    source = next((name for name in _SOURCES if name in keys and getattr(given, name) is not None), None)
    stated = {key: getattr(config, key) for key in keys - set(_SOURCES)}
    if stated.get("taxonomy") is not None:
        stated["taxonomy"] = find_taxonomy(config.taxonomy).recorded()
    if source is not None:
        stated |= {name: getattr(config, name) for name in _SOURCES}
    return {
        key: value
        for key, value in stated.items()
        if not (value in (None, "auto") and key in _DETERMINED and getattr(given, key) in (None, "auto"))
    }
