"""How many examples the benchmarks publish, which is known without their data.

From the papers and TFDS's catalogue: of GLUE, SuperGLUE, SQuAD 1.1, MRQA (Fisch et al. 2019, table
1), XSum, CNN/DailyMail, ANLI and the classification sets. A benchmark that publishes no validation
split has it cut from training here, by `TaskDefinition.cuts_validation`.
"""

#: task -> (train, validation, test) as published; 0 where there is none.
PUBLISHED_SIZES: dict[str, tuple[int, int, int]] = {
    'glue_cola': (8_551, 1_043, 1_063),
    'glue_sst2': (67_349, 872, 1_821),
    'glue_mrpc': (3_668, 408, 1_725),
    'glue_qqp': (363_846, 40_430, 390_965),
    'glue_stsb': (5_749, 1_500, 1_379),
    'glue_mnli': (392_702, 9_815, 9_796),
    'glue_qnli': (104_743, 5_463, 5_463),
    'glue_rte': (2_490, 277, 3_000),
    'glue_wnli': (635, 71, 146),
    'glue_ax': (0, 0, 1_104),
    'super_glue_boolq': (9_427, 3_270, 3_245),
    'super_glue_cb': (250, 56, 250),
    'super_glue_copa': (400, 100, 500),
    'super_glue_multirc': (27_243, 4_848, 9_693),
    'super_glue_record': (100_730, 10_000, 10_000),
    'super_glue_rte': (2_490, 277, 3_000),
    'super_glue_wic': (5_428, 638, 1_400),
    'super_glue_wsc': (554, 104, 146),
    'super_glue_wsc_ranking': (554, 104, 146),
    'super_glue_axb': (0, 0, 1_104),
    'super_glue_axg': (0, 0, 356),
    'squad': (87_599, 10_570, 0),
    'mrqa_squad': (86_588, 10_507, 0),
    'mrqa_news_qa': (74_160, 4_212, 0),
    'mrqa_trivia_qa': (61_688, 7_785, 0),
    'mrqa_search_qa': (117_384, 16_980, 0),
    'mrqa_hotpot_qa': (72_928, 5_904, 0),
    'mrqa_natural_questions': (104_071, 12_836, 0),
    'mrqa_bio_asq': (0, 0, 1_504),
    'mrqa_drop': (0, 0, 1_503),
    'mrqa_duo_rc': (0, 0, 1_501),
    'mrqa_race': (0, 0, 674),
    'mrqa_relation_extraction': (0, 0, 2_948),
    'mrqa_textbook_qa': (0, 0, 1_503),
    'xsum': (204_045, 11_332, 11_334),
    'cnn_dailymail': (287_113, 13_368, 11_490),
    'anli_r1': (16_946, 1_000, 1_000),
    'anli_r2': (45_460, 1_000, 1_000),
    'anli_r3': (100_459, 1_200, 1_200),
    'rotten_tomatoes_reviews': (8_530, 1_066, 1_066),
    'imdb_reviews': (25_000, 0, 25_000),
    'ag_news': (120_000, 0, 7_600),
    'trec': (5_452, 0, 500),
    'banking77': (10_003, 0, 3_080),
}
