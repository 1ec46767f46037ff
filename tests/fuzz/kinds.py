"""All kinds of files that the suite damages."""

from __future__ import annotations

from tests.fuzz.documents import damage_json, damage_lines, damage_yaml
from tests.fuzz.folders import (
    damage_filtered,
    damage_packed,
    damage_scene_files,
    damage_settings,
    generated,
    make_filtered,
    make_packed,
    read_filtered,
    read_generated,
    read_packed,
)
from tests.fuzz.harness import Kind
from tests.fuzz.images import (
    damage_cache,
    damage_label_file,
    damage_photograph,
    make_cache,
    make_mapillary,
    make_pair,
    read_cache,
    read_label_file,
    read_mapillary,
    read_photograph,
)
from tests.fuzz.models import damage_model_config, damage_weights, make_model, read_model, read_weights_files
from tests.fuzz.recipes import damage_recipe, make_mix, make_recipes, read_mix, read_recipe_file
from tests.fuzz.records import (
    damage_captions,
    damage_engine,
    damage_journal,
    damage_state,
    make_captions,
    make_engines,
    make_journal,
    make_state,
    read_captions_file,
    read_engine,
    read_journal,
    read_state_file,
)
from tests.fuzz.segmenters import (
    damage_mmseg,
    damage_onnx,
    damage_segformer,
    damage_sidecar,
    make_mmseg,
    make_onnx,
    make_segformer,
    read_mmseg,
    read_onnx,
    read_segformer,
)

KINDS = (
    Kind("manifest", generated, lambda r, f: damage_lines(r, f / "out" / "manifest.jsonl"), read_generated, 8),
    Kind("filtered labels", make_filtered, damage_filtered, read_filtered, 4),
    Kind("settings of a folder", generated, damage_settings, read_generated, 3),
    Kind("scene files", generated, damage_scene_files, read_generated, 3),
    Kind("label map", make_pair, damage_label_file, read_label_file, 10),
    Kind("photograph", make_pair, damage_photograph, read_photograph, 10),
    Kind("recipe", make_recipes, damage_recipe, read_recipe_file, 10, right=False),
    Kind("style mix", make_mix, lambda r, f: damage_yaml(r, f / "mix.yaml", {"snowy": 1, "night": 0.5}), read_mix, 3),
    Kind("ONNX side-car", make_onnx, damage_sidecar, read_onnx, 4),
    Kind("ONNX file", make_onnx, damage_onnx, read_onnx, 3),
    Kind("SegFormer folder", make_segformer, damage_segformer, read_segformer, 5),
    Kind("mmsegmentation config", make_mmseg, damage_mmseg, read_mmseg, 6),
    Kind("model config", make_model, damage_model_config, read_model, 8),
    Kind("weights", make_model, damage_weights, read_weights_files, 6),
    Kind("training state", make_state, damage_state, read_state_file, 3),
    Kind("engine", make_engines, damage_engine, read_engine, 5),
    Kind("evaluation journal", make_journal, damage_journal, read_journal, 4),
    Kind("class names", make_mapillary, lambda r, f: damage_json(r, f / "config.json"), read_mapillary, 2),
    Kind("training records", make_captions, damage_captions, read_captions_file, 4),
    Kind("packed set", make_packed, damage_packed, read_packed, 2),
    Kind("class counts", make_cache, damage_cache, read_cache, 2),
)  # fmt: skip
