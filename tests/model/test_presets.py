"""Models by name have as many parameters as their makers, or their published files, count."""

import pytest

from alpaca_jax.model.presets import PRESETS, preset
from alpaca_jax.support.errors import UserError

_PUBLISHED = {
    "tiny": 1_049_728,
    "smollm2_135m": 134_515_008,
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_30b": 32_528_943_616,
    "llama_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3.1_8b": 8_030_261_248,
    "llama3.1_70b": 70_553_706_496,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "qwen2.5_0.5b": 494_032_768,
    "qwen2.5_7b": 7_615_616_512,
    "qwen3_0.6b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
}


def test_the_numbers_of_parameters():
    assert {name: model.num_parameters for name, model in PRESETS.items()} == _PUBLISHED


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'llama2_7b'"):
        preset("llama2_7B")
