"""Designs and searches as contenders: made from the training data, measured like all others."""

import pytest

from jax_prompt.comparison.designed import Designed
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings, run_comparison
from jax_prompt.inference.make_design import DesignSettings
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt

PLAIN = DesignSettings(template='review : {text} and the review was', form='plain')


def test_designs_take_part_with_what_they_draw(world, task, tmp_path):
    shots = DesignSettings(template=PLAIN.template, form='plain', shots=2)
    comparison = Comparison((task,), (Designed('zero', PLAIN), Designed('two', shots)),
                            ComparisonSettings((0, 1), (8,), batch_size=16))
    folder = ComparisonFolder(tmp_path / 'out')
    run_comparison(open_model(str(world / 'model')), comparison, folder)
    cells = list(comparison.cells())
    assert [(cell.contender, cell.size, cell.seed) for cell in cells] == [
        ('zero', None, 0), ('two', 8, 0), ('two', 8, 1)]
    records = [folder.record(cell) for cell in cells]
    assert [record.examples for record in records] == [0, 2, 2]
    assert all(record.stored_bytes > 0 and not record.trained_numbers for record in records)
    files = [load_prompt(folder.trial(cell) / 'design.safetensors') for cell in cells]
    seen = [file.metadata.design['demonstrations'] for file in files]
    assert not seen[0] and len(seen[1]) == 2 and seen[1] != seen[2]


def test_a_design_of_another_task_is_refused_before_anything_runs(toy):
    words = DesignSettings(template='{text} {answer}', words={'x': 'y', 'z': 'v'})
    with pytest.raises(ValueError, match="the design has words for 'x', 'z' but the labels"):
        Comparison((toy,), (Designed('other', words),), ComparisonSettings())
