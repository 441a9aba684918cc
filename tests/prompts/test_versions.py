"""Names and versions of prompts: what is one, and which is the higher."""

import pytest

from jax_prompt.prompts.versions import BadName, split_name, version_order


@pytest.mark.parametrize('name, expected', [
    ('sst2', ('sst2', None)), ('sst2@3', ('sst2', '3')), ('a.b-c_d@v1.2', ('a.b-c_d', 'v1.2'))])
def test_names_and_versions_are_read(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize('name', [
    '', '.', '..', '../x', 'a/b', 'a\\b', '/etc/passwd', '.hidden', 'a@', '@1', 'a@1@2', 'a b',
    'a\n', 'ä', 'a' * 65, 'a@' + 'b' * 65, 'a\0', '-a'])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BadName, match='is no name of a prompt'):
        split_name(name)


def test_versions_sort_by_their_numbers():
    versions = ['10', '2', 'v1.10', 'v1.9', '1', 'v1']
    assert sorted(versions, key=version_order) == ['v1', 'v1.9', 'v1.10', '1', '2', '10']
