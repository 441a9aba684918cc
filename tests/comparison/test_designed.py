"""Designs and searches as contenders: made from the training data, measured like all others."""

import pytest

from jax_prompt.comparison.designed import Designed
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings, run_comparison
from jax_prompt.comparison.searching import Searched
from jax_prompt.inference.make_design import DesignSettings
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt
from jax_prompt.search.settings import SearchSettings

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


@pytest.mark.slow
def test_a_search_takes_part_and_its_words_are_measured(world, task, tmp_path):
    settings = SearchSettings(budget=600, examples=8, first_examples=4, held_out=8, finalists=2,
                              batch_size=8, measured=8)
    comparison = Comparison((task,), (Searched('flips', 'hotflip', settings),),
                            ComparisonSettings((1,), (32,), batch_size=16))
    folder = ComparisonFolder(tmp_path / 'out')
    run_comparison(open_model(str(world / 'model')), comparison, folder)
    record = folder.record(next(comparison.cells()))
    assert 0 < record.examples <= 600 and record.seconds > 0 and record.curve
    assert record.stored_bytes > 0 and not record.trained_numbers and record.validated == 32


def test_a_search_that_is_none_is_refused_before_anything_runs(toy):
    with pytest.raises(ValueError, match="no search strategy 'luck'; choose one of templates"):
        Comparison((toy,), (Searched('x', 'luck'),), ComparisonSettings())
