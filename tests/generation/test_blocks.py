"""How jobs are grouped into blocks, and that a block can be computed in any process."""

import pickle
from typing import Any

import pytest

from dgkit.data.crops import CropRules
from dgkit.data.datasets import open_source
from dgkit.data.index import build_index
from dgkit.data.style_mixes import load_style_mix
from dgkit.generation.blocks import block_numbers, make_block, missing_blocks, total_images
from dgkit.generation.encoding import encode
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan
from dgkit.generation.scene_generator import SceneGenerator

COUNT = 1


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_shards_are_whole_blocks_and_together_make_up_the_run(count: int) -> None:
    run = GenerateConfig(count=count, batch=4)
    shards = [GenerateConfig(count=count, batch=4, shard=f"{number}/3") for number in (1, 2, 3)]
    parts = [list(block_numbers(shard)) for shard in shards]
    assert sorted((part for shard in parts for part in shard), key=lambda part: part.start) == list(block_numbers(run))
    assert sum(total_images(shard) for shard in shards) == total_images(run) == count


def test_a_block_is_generated_as_a_whole_if_one_image_is_missing() -> None:
    found = list(missing_blocks(GenerateConfig(count=7, batch=4), {0, 1, 2, 4, 5}))
    assert found == [(range(2, 4), (3,)), (range(6, 7), (6,))]


def test_a_pickled_block_gives_the_same_files(one_thread: None, settings: dict[str, Any]) -> None:
    config = GenerateConfig(**{**settings, "count": 1})
    plan = JobPlan(build_index(open_source(settings["labels"])), CropRules((64, 64)), load_style_mix("uniform"), 0)
    block = make_block(plan, *next(missing_blocks(config, ())))
    copy = pickle.loads(pickle.dumps(block))
    assert (copy.jobs[0].label == block.jobs[0].label).all()
    with SceneGenerator(config) as generator:
        here, there = ([encode(i) for i in generator.generate(b, lambda share: None)] for b in (block, copy))
    assert here == there
