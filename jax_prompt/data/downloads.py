"""Where the benchmarks' data is published, as data: addresses and, where they are known, checksums.

The checksums are those that TensorFlow Datasets keeps for the same files. Where a task is published
on the Hugging Face hub alone, or its original address is for browsers, the hub's files are taken.
"""

import dataclasses

_META = 'https://dl.fbaipublicfiles.com'
_MRQA = 'https://s3.us-east-2.amazonaws.com/mrqa/release/v2'
_SQUAD = 'https://rajpurkar.github.io/SQuAD-explorer/dataset'
_TREC = 'https://cogcomp.org/Data/QA/QC'
_BANKING = ('https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/'
            'banking_data')


@dataclasses.dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        url: its address.
        sha256: of it; None where nobody publishes one.
        path: where it goes below the data's folder; None for an archive, which is unpacked there.
    """

    url: str
    sha256: str | None = None
    path: str | None = None


@dataclasses.dataclass(frozen=True)
class HubDownload:
    """Files of a data set on the Hugging Face hub.

    Attributes:
        repository: 'owner/name'.
        patterns: of the files' names.
        path: the folder below the data's one.
    """

    repository: str
    patterns: tuple[str, ...]
    path: str


def _super_glue(name: str, sha256: str) -> Download:
    return Download(f'{_META}/glue/superglue/data/v2/{name}.zip', sha256)


def _glue(name: str, sha256: str) -> Download:
    return Download(f'{_META}/glue/data/{name}.zip', sha256)


def _mrqa(split: str, name: str) -> Download:
    return Download(f'{_MRQA}/{split}/{name}.jsonl.gz', None, f'MRQA/{split}/{name}.jsonl.gz')


def _in_domain(name: str) -> tuple[Download, ...]:
    return _mrqa('train', name), _mrqa('dev', name)


_WSC = (_super_glue('WSC', '2ed6dfa94556b4a128ff0441efe365b2e883124e7e6aa00fb8d3a6cb1fd520a9'),)
_ANLI = (Download(f'{_META}/anli/anli_v0.1.zip',
                  '16ac929a7e90ecf9093deaec89cc81fe86a379265a5320a150028efe50c5cde8'),)
_MRPC = (
    Download(f'{_META}/senteval/senteval_data/msr_paraphrase_train.txt',
             '60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89',
             'MRPC/msr_paraphrase_train.txt'),
    Download(f'{_META}/senteval/senteval_data/msr_paraphrase_test.txt',
             'a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784',
             'MRPC/msr_paraphrase_test.txt'),
    Download(f'{_META}/glue/data/mrpc_dev_ids.tsv',
             '971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7',
             'MRPC/mrpc_dev_ids.tsv'),
)
_QQP = (_glue('QQP', '40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0'),)

#: Task -> what it needs.
DOWNLOADS: dict[str, tuple[Download | HubDownload, ...]] = {
    'super_glue_boolq': (_super_glue(
        'BoolQ', '853fbe7922f70c59629f06a39e8d9ca440c3d740e760fd3b87a5ddf3dcba2436'),),
    'super_glue_cb': (_super_glue(
        'CB', '8d641383298d54554066ba1c93f56ae7410af75df621b90c63028806bbbbb535'),),
    'super_glue_copa': (_super_glue(
        'COPA', '405906cddac74bc1e1ce8220f1107d1025b66a25ef10149d91b10bb30651125f'),),
    'super_glue_multirc': (_super_glue(
        'MultiRC', 'b3cd440856e72eb166b2edcd37b798455f1ebd51f2c3de64c0c2a4e1971d2737'),),
    'super_glue_record': (_super_glue(
        'ReCoRD', '30c7b651ab21b8bf8fab986495cd1084333010e040548f861b839eec0044ac18'),),
    'super_glue_rte': (_super_glue(
        'RTE', '6310aab3f000424c9d0318a1ff20692e07c7f4aa15e8f17a5972ea0a35c398b9'),),
    'super_glue_wic': (_super_glue(
        'WiC', 'ee7e67f4ae9eafbf533780faa198e62167f3cda54256cdf261877be3c0e90900'),),
    'super_glue_wsc': _WSC,
    'super_glue_wsc_ranking': _WSC,
    'super_glue_axb': (_super_glue(
        'AX-b', '43b45c55a273575c58a33cd68f10a971f83daa3aa223bfbc4077b92fbdf960b3'),),
    'super_glue_axg': (_super_glue(
        'AX-g', '2d4e00d3a7d23d2c3787ee4c1382cc81a72cb05a76fc9d78d142949247ed61b9'),),
    'glue_cola': (_glue(
        'CoLA', 'f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff'),),
    'glue_sst2': (_glue(
        'SST-2', 'd67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa'),),
    'glue_mrpc': _MRPC,
    'glue_qqp': _QQP,
    'glue_mrpc_from_qqp': _QQP + _MRPC,
    'glue_qqp_from_mrpc': _QQP + _MRPC,
    'glue_stsb': (_glue(
        'STS-B', 'e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85'),),
    'glue_mnli': (_glue(
        'MNLI', 'e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633'),),
    'glue_qnli': (_glue(
        'QNLIv2', 'e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5'),),
    'glue_rte': (_glue(
        'RTE', '6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee'),),
    'glue_wnli': (_glue(
        'WNLI', 'ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46'),),
    'glue_ax': (Download(f'{_META}/glue/data/AX.tsv', None, 'AX/AX.tsv'),),
    'squad': (
        Download(f'{_SQUAD}/train-v1.1.json',
                 '3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955',
                 'SQuAD/train-v1.1.json'),
        Download(f'{_SQUAD}/dev-v1.1.json',
                 '95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9',
                 'SQuAD/dev-v1.1.json')),
    'mrqa_squad': _in_domain('SQuAD'),
    'mrqa_news_qa': _in_domain('NewsQA'),
    'mrqa_trivia_qa': _in_domain('TriviaQA-web'),
    'mrqa_search_qa': _in_domain('SearchQA'),
    'mrqa_hotpot_qa': _in_domain('HotpotQA'),
    'mrqa_natural_questions': _in_domain('NaturalQuestionsShort'),
    'mrqa_drop': (_mrqa('dev', 'DROP'),),
    'mrqa_duo_rc': (_mrqa('dev', 'DuoRC.ParaphraseRC'),),
    'mrqa_race': (_mrqa('dev', 'RACE'),),
    'mrqa_relation_extraction': (_mrqa('dev', 'RelationExtraction'),),
    'mrqa_textbook_qa': (_mrqa('dev', 'TextbookQA'),),
    'xsum': (HubDownload('EdinburghNLP/xsum', ('*.parquet',), 'xsum'),),
    'cnn_dailymail': (HubDownload('abisee/cnn_dailymail', ('3.0.0/*.parquet',), 'cnn_dailymail'),),
    'anli_r1': _ANLI,
    'anli_r2': _ANLI,
    'anli_r3': _ANLI,
    'rotten_tomatoes_reviews': (HubDownload(
        'cornell-movie-review-data/rotten_tomatoes', ('*.parquet',), 'rotten_tomatoes'),),
    'imdb_reviews': (Download(
        'https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz',
        'c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe'),),
    'ag_news': (HubDownload('fancyzhx/ag_news', ('*.parquet',), 'ag_news'),),
    'trec': (
        Download(f'{_TREC}/train_5500.label',
                 '9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3',
                 'TREC/train_5500.label'),
        Download(f'{_TREC}/TREC_10.label',
                 '033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e',
                 'TREC/TREC_10.label')),
    'banking77': (Download(f'{_BANKING}/train.csv', None, 'banking_data/train.csv'),
                  Download(f'{_BANKING}/test.csv', None, 'banking_data/test.csv')),
}
#: What nobody may fetch without signing up, and how it is done.
BY_HAND = {
    'mrqa_bio_asq': 'sign up at http://participants-area.bioasq.org/MRQA2019, and put '
                    'BioASQ.jsonl.gz into MRQA/test of the folder',
}
