"""Read a tokenizer from its files, so that it gives the ids that transformers gives.

transformers takes two seconds to import, and T5's own tokenizer is built in a dozen lines. So a
`tokenizer.json` of T5's is read here; all else that a folder may say, slow tokenizers' files, other
classes, tokens added in one file and renamed in another, is left to transformers itself.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from jax_prompt.data.codecs import SENTINELS, ByteCodec, RustCodec, SentencePieceCodec
from jax_prompt.files import TOKENIZER_FILES, brief, first_line

_JSON, _CONFIG = 'tokenizer.json', 'tokenizer_config.json'
_SPECIAL = {'eos_token': '</s>', 'pad_token': '<pad>', 'unk_token': '<unk>'}
#: More than any T5 has: a number in a file must not fill the memory.
_MOST_SENTINELS = 10_000

# What a tokenizer_config.json may say of a T5 tokenizer without any change to its ids, besides the
# names of tokens that tokenizer.json has anyway.
_WITHOUT_EFFECT = {
    'add_prefix_space', 'backend', 'clean_up_tokenization_spaces', 'extra_ids', 'is_local',
    'legacy', 'local_files_only', 'max_length', 'model_max_length', 'name_or_path',
    'pad_to_multiple_of', 'pad_token_type_id', 'padding_side', 'processor_class',
    'sp_model_kwargs', 'special_tokens_map_file', 'stride', 'tokenizer_class', 'truncation_side',
    'truncation_strategy', 'use_fast'}
#: Parts of a tokenizer.json of T5, as transformers 4 and 5 write it, and what they put in.
_T5_FORM = {('Precompiled', '▁'), ('Replace', '▁'), ('WhitespaceSplit', '▁'), ('Metaspace', '▁')}
_TOKENS = {*_SPECIAL, 'additional_special_tokens', 'extra_special_tokens'}


class ReadTokenizer(NamedTuple):
    """A tokenizer: its codec and its special tokens, None where it names none."""

    codec: RustCodec | SentencePieceCodec | ByteCodec
    eos_token: str | None = '</s>'
    pad_token: str | None = '<pad>'
    unk_token: str | None = '<unk>'


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn whatever a parser raises, Rust's panics included, into a ValueError of one line.

    Args:
        what: the message's beginning.
    """
    try:
        yield
    except BaseException as error:  # tokenizers, transformers and protobuf raise all kinds
        if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
            raise  # PyO3's class of panics has no importable name
        missing = 'no ' if isinstance(error, KeyError) else ''
        raise ValueError(f'{what}: {missing}{first_line(error)}') from error


def read_tokenizer(path: str | os.PathLike) -> ReadTokenizer:
    """Read a folder, a tokenizer.json or a SentencePiece `.model` file.

    A file of a usual name is read as the other files of its folder say.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, incomplete, of no known kind, or comes as code.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        kind = 'SentencePiece model' if path.suffix == '.model' else 'tokenizer file'
        raise FileNotFoundError(f'{kind} {path} does not exist')
    beside = {name for name in (_JSON, _CONFIG, 'config.json') if (path.parent / name).is_file()}
    if path.name == _JSON or path.name in TOKENIZER_FILES and beside and _JSON not in beside:
        return _read_folder(path.parent)
    return _sentencepiece(path) if path.suffix == '.model' else _alone(path)


def _read_folder(folder: Path) -> ReadTokenizer:
    """Read what a folder holds."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f'folder {folder} has no tokenizer: neither tokenizer.json, spiece.model nor '
            'tokenizer_config.json; copy the files of the model, or name a tokenizer file')
    config, model = _read_object(folder / _CONFIG), _read_object(folder / 'config.json') or {}
    pieces = next((folder / name for name in TOKENIZER_FILES
                   if name.endswith('.model') and (folder / name).is_file()), None)
    if (folder / _JSON).is_file():
        if config is None and not model.get('tokenizer_class') and 'auto_map' not in model:
            return _alone(folder / _JSON, model.get('model_type'))
        content = _content(folder / _JSON)
        with telling(f'the tokenizer files of {folder} do not fit each other'):
            is_plain = _is_t5(config or {}, model) and _is_whole(folder, config or {}, content)
        if is_plain:
            with telling(f'{folder / _JSON} is not a tokenizer.json'):
                Tokenizer.from_file(str(folder / _JSON))  # what T5 leaves out must be sound too
                return _t5_of(content, config or {})
        return _by_transformers(folder, config or {}, model, {})
    settings: dict[str, Any] = {}
    if pieces is not None:
        if config is None and not model.get('tokenizer_class'):
            model = {'model_type': 't5', **model}
        settings['vocab_file'] = str(pieces)
        found = {piece.piece for piece in _parsed(pieces).pieces}
        if config is None and found & {'<extra_id_0>', '▁<extra_id_0>'}:
            settings['extra_ids'] = 0
    return _by_transformers(folder, config or {}, model, settings)


#: Models whose tokenizer is transformers' T5Tokenizer where nothing else is said.
_T5_TYPES = ('t5', 'mt5')


def _is_t5(config: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Tell whether transformers takes its T5Tokenizer, as it chooses by both configurations."""
    named = config.get('tokenizer_class', model.get('tokenizer_class'))
    kind = model.get('model_type')
    return ('auto_map' not in config and 'auto_map' not in model
            and (named in ('T5Tokenizer', 'T5TokenizerFast') if kind not in _T5_TYPES else
                 named in ('T5Tokenizer', 'T5TokenizerFast', None))
            and kind in (*_T5_TYPES, None))


def _is_whole(folder: Path, config: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Tell whether tokenizer.json has all tokens that the other files speak of."""
    mapped = {}
    if 'added_tokens_decoder' not in config:
        if (folder / 'added_tokens.json').is_file():
            return False
        mapped = _read_object(folder / 'special_tokens_map.json') or {}
    told = {**config, **mapped}
    named = [token for key in _TOKENS for token in _texts(told.get(key, _SPECIAL.get(key)))]
    sentinels = [f'<extra_id_{i}>' for i in range(config.get('extra_ids', SENTINELS))]
    listed = [token for token in named if token.startswith('<extra_id_')]
    return (set(told) <= _WITHOUT_EFFECT | _TOKENS | {'added_tokens_decoder'}
            and not any(isinstance(told.get(key), list) for key in _SPECIAL)
            and len(listed) in (0, len(sentinels))
            and {*named, *sentinels} <= {token['content'] for token in _added(content, config)})


def _added(content: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens by id: tokenizer_config.json's, or else tokenizer.json's."""
    tokens = config.get('added_tokens_decoder')
    if tokens is None:
        tokens = {token['id']: token for token in content['added_tokens']}
    return [{key: value for key, value in tokens[index].items() if key != 'id'}
            for index in sorted(tokens, key=int)]


def _texts(value: Any) -> list[str]:
    """Return the texts of a special token, of several, or of none."""
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    value = AddedToken(**value).content if isinstance(value, Mapping) else value
    return [] if value is None else [str(value)]


def _t5_of(content: Mapping[str, Any], config: Mapping[str, Any]) -> ReadTokenizer:
    """Build T5's tokenizer of a tokenizer.json, as transformers' T5Tokenizer does.

    It takes pieces, scores and the table of normalisation from the file, and the rest is T5's.
    """
    tokenizer = Tokenizer(models.Unigram([tuple(piece) for piece in content['model']['vocab']],
                                         unk_id=2, byte_fallback=False))
    for normalizer in _precompiled(content)[:1]:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace('▁', 'always', True)])
    tokenizer.decoder = decoders.Metaspace('▁', 'always', True)
    special = {key: _texts(config.get(key, name))[0] for key, name in _SPECIAL.items()}
    tokenizer.add_tokens([
        AddedToken(**token | ({'special': True} if token['content'] in special.values() else {}))
        for token in _added(content, config)])
    end = tokenizer.token_to_id(special['eos_token'])
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single='$A </s>', special_tokens=[('</s>', end)])
    return ReadTokenizer(
        RustCodec(tokenizer, bool(config.get('clean_up_tokenization_spaces', False))), **special)


def _alone(path: Path, kind: str | None = None) -> ReadTokenizer:
    """Read a tokenizer.json that no tokenizer_config.json goes with, for a model of some kind.

    What is of T5's form, or is a T5 model's, is read as transformers' T5Tokenizer reads it, but for
    sentinels that the file has not: nothing says that the model has rows for them.
    """
    content = _content(path)
    with telling(f'{path} is not a tokenizer.json'):
        tokenizer, model = Tokenizer.from_file(str(path)), content['model']
        form = {(part['type'], part.get('content', '▁')) for key, parts in
                (('normalizer', 'normalizers'), ('pre_tokenizer', 'pretokenizers'))
                for part in _parts(content.get(key), parts)}
        if isinstance(tokenizer.model, models.Unigram) and (
                kind in _T5_TYPES or kind is None and model.get('unk_id') == 2
                and form <= _T5_FORM):
            return _t5_of(content, {})
        unknown = model.get('unk_token') or _SPECIAL['unk_token']
        known = tokenizer.token_to_id(unknown) is not None
        return ReadTokenizer(RustCodec(tokenizer), unk_token=unknown if known else None)


def _sentencepiece(path: Path) -> ReadTokenizer:
    """Read a SentencePiece file that nothing goes with, by SentencePiece itself."""
    model = _parsed(path)
    with telling(f'{path} is not a SentencePiece model'):
        codec = SentencePieceCodec(model)
    return ReadTokenizer(codec, *codec.special())


def _parsed(path: Path) -> Any:
    """Parse a SentencePiece file; transformers would read a damaged one as something else."""
    from sentencepiece import sentencepiece_model_pb2

    with telling(f'{path} is not a SentencePiece model'):
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
        if not all([piece.piece for piece in model.pieces] or ['']):
            raise ValueError('it has no pieces, or one without text')
    return model


def _by_transformers(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any],
                     settings: Mapping[str, Any]) -> ReadTokenizer:
    """Let transformers read a folder, without running any code that comes with it."""
    if _is_t5(config, model):
        from transformers import T5Tokenizer as loader  # half the time of AutoTokenizer
    else:
        from transformers import AutoTokenizer as loader
    with telling(f'the tokenizer of {folder} cannot be read by transformers'):
        read = loader.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True,
                                      **settings)
    special = read.eos_token, read.pad_token, read.unk_token
    tokenizer = getattr(read, 'backend_tokenizer', None)
    if not isinstance(tokenizer, Tokenizer):
        if type(read).__name__ == 'ByT5Tokenizer':
            return ReadTokenizer(ByteCodec(read), *special)
        raise ValueError(f'the tokenizer of {folder} is a {type(read).__name__}, which has no '
                         'tokenizer.json form; give one that has')
    missing = [name for key, name in read.vocab_files_names.items()
               if key != 'tokenizer_file' and not (folder / name).is_file()]
    if missing and not settings and not (folder / _JSON).is_file():
        raise FileNotFoundError(f'{folder} has no {" and no ".join(missing)}, which a '
                                f'{type(read).__name__} is read from; copy all files of the model')
    tokenizer.encode_special_tokens = read.split_special_tokens
    clean_up = read.clean_up_tokenization_spaces and not isinstance(tokenizer.model, models.BPE)
    return ReadTokenizer(RustCodec(tokenizer, bool(clean_up)), *special)


def _content(path: Path) -> dict[str, Any]:
    """Parse a tokenizer.json; a damaged table of normalisation makes Rust's parser panic."""
    content = _read_object(path)
    with telling(f'{path} is not a tokenizer.json'):
        _precompiled(content)
    return content


def _precompiled(content: Mapping[str, Any]) -> list[normalizers.Normalizer]:
    """Return SentencePiece's tables of normalisation."""
    return [normalizers.Precompiled(base64.b64decode(one['precompiled_charsmap'], validate=True))
            for one in _parts(content.get('normalizer'), 'normalizers')
            if 'precompiled_charsmap' in one]


def _parts(component: Any, key: str) -> list[Mapping[str, Any]]:
    """Return the members of a sequence of tokenizer.json, or the one thing that stands for it."""
    if not component:
        return []
    return component[key] if component.get('type') == 'Sequence' else [component]


def _read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file."""
    if not path.is_file():
        return None
    with telling(f'{path} is not JSON'):
        content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a JSON {type(content).__name__}; expected an object')
    sentinels = content.get('extra_ids', 0)
    if not isinstance(sentinels, int) or not 0 <= sentinels <= _MOST_SENTINELS:
        raise ValueError(f'{path} has extra_ids {brief(sentinels)}; expected a number of '
                         f'sentinels up to {_MOST_SENTINELS}')
    return content
