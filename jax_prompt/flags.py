"""The flags of the commands, as data: `--help` reads them without importing anything heavy."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Flag:
    """A short spelling of a gin binding.

    Attributes:
      name: `--name`.
      binding: what it sets, 'model.source'.
      help: one phrase.
      metavar: stands for the value in the help.
      choices: the values, where there are few.
      also: a further binding that the flag brings with it.
      switch: whether the flag takes no value and means True.
      constructor: whether the value names a constructor, whose settings then count.
    """

    name: str
    binding: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    also: str | None = None
    switch: bool = False
    constructor: bool = False


SUMMARIES = {
    'train': 'train a prompt, or resume a run that was stopped',
    'sweep': 'train with many settings, on as many processes and hosts as there are, and find the '
             'best',
    'evaluate': 'measure a prompt, or the plain model, on a split of a task',
    'predict': 'answer texts from a file or standard input with a prompt',
    'data': 'fetch the data of benchmarks into one folder: jax-prompt data prepare',
    'tasks': 'list the tasks there are, or show what the data of one is like, also of a file',
    'plan': 'say whether a model and a batch fit on a TPU, and how fast at most; needs no TPU',
    'compare': 'run designs, methods and model tuning side by side; say which one to take',
    'convert': 'keep a model as it is used (bfloat16, int8), for quicker starts',
    'search': 'search the words of a prompt: template, label words, tokens or instruction',
    'serve': 'answer requests over HTTP with many prompts at once',
    'import': "make a prompt file of another tool's prompt (PEFT, T5X, numpy)",
    'export': 'write a prompt for other tools (PEFT, numpy), or push it to the Hugging Face hub',
    'prompts': 'keep versions of prompts in a folder: add, compare, promote, roll back',
    'design': 'word a task by hand: a template, words for labels, examples in front of inputs',
    'similarity': 'tell how alike prompts are, and rank sources to start a task from',
    'monitor': 'compare promoted prompts on fresh data with their own figures, and what they are '
               'asked with what they were trained for',
    'inspect': 'tell what a prompt file holds, and the words nearest to its rows; with --output a '
               'report on what they do',
}

#: What gin calls the commands whose names it cannot take.
GIN_NAMES = {'data': 'prepare_data', 'import': 'import_prompt', 'export': 'export_prompt',
             'inspect': 'inspect_prompt', 'design': 'make_design'}

#: Words that stand behind a command's name and say what it does.
ACTIONS = {'data': ('prepare',), 'tasks': ('list', 'show'),
           'prompts': ('list', 'show', 'add', 'tag', 'diff', 'promote', 'rollback', 'canary',
                       'verify')}

#: Commands that several hosts may run together.
DISTRIBUTED = ('train', 'evaluate', 'predict')

_MODEL = Flag('model', 'model.source', 'folder, package:NAME/folder or Hugging Face id of the T5',
              'SOURCE')
_MESH = Flag('mesh', 'mesh.shape', 'how devices share the work, such as data:4,model:2', 'AXES')
_WEIGHTS = Flag('weights', 'model.weights', 'how the frozen kernels are kept; as activations '
                'unless given', choices=('float32', 'bfloat16', 'int8'))
_TASK = Flag('task', 'TASK', 'a task by name, or a file of rows (.csv, .jsonl, .parquet)', 'TASK')

_DATA = Flag('data_dir', 'DATA', "folder with the benchmarks' data", 'FOLDER')

FLAGS = {
    'train': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('output', 'train.output', 'folder of the run', 'FOLDER'),
        Flag('ensemble', 'prompt.ensemble', 'prompts to train at once for the task', 'N'),
    ),
    'sweep': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('output', 'sweep.output', 'folder of the sweep', 'FOLDER'),
        Flag('trials', 'study.trials', 'trials of the study in all, whoever runs them', 'N'),
    ),
    'evaluate': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('prompt', 'evaluate.prompt', 'prompt file, or a folder of an ensemble', 'PATH'),
        Flag('split', 'evaluate.split', 'which split', 'SPLIT'),
        Flag('calibration', 'evaluate.calibration', 'tell how far label probabilities can be '
             'believed, and which --label_temperature suits them', switch=True),
    ),
    'predict': (
        _MODEL, _MESH, _WEIGHTS,
        Flag('prompt', 'predict.prompt', 'prompt file', 'FILE'),
        Flag('prompts', 'predict.prompts', 'folder of prompt files, of which each line names one',
             'FOLDER'),
        Flag('prompt_column', 'lines.prompt_column', 'the key of the JSON lines that names it',
             'KEY'),
        Flag('inputs', 'predict.inputs', 'texts; - for standard input', 'FILE'),
        Flag('output', 'predict.output', 'answers; - for standard output', 'FILE'),
        Flag('format', 'lines.format', 'of inputs and answers; by the name of the inputs '
             'otherwise', choices=('lines', 'jsonl')),
        Flag('batch_size', 'lines.batch_size', 'most rows of a batch', 'N'),
        Flag('calibrate', 'answers.calibrate', 'take away what the labels score without an input',
             switch=True),
        Flag('label_temperature', 'answers.label_temperature', 'divides the scores of labels; see '
             'evaluate --calibration', 'T'),
        Flag('ensemble', 'answers.ensemble', 'let all prompts of the folder answer each line '
             'together: by the majority, or by the mean of label probabilities',
             choices=('vote', 'mean')),
        Flag('num_beams', 'answers.num_beams', 'of a beam search, for free text', 'N'),
        Flag('length_penalty', 'answers.length_penalty', "the beam search's alpha", 'ALPHA'),
        Flag('temperature', 'answers.temperature', 'of sampling; 0 for greedy', 'T'),
        Flag('top_k', 'answers.top_k', 'draw from the k likeliest tokens; 0 for all', 'K'),
        Flag('top_p', 'answers.top_p', 'draw from the likeliest that sum to p; 1 for all', 'P'),
        Flag('seed', 'answers.seed', 'of sampling', 'N'),
        Flag('max_tokens', 'answers.max_tokens', "to generate at most; by the task's "
             'targets_length otherwise', 'N'),
    ),
    'data': (
        Flag('task', 'prepare_data.tasks', 'a task, the beginning of several such as super_glue, '
             'or all; several with commas', 'TASK'),
        Flag('data_dir', 'prepare_data.data_dir', 'folder to fetch into', 'FOLDER'),
        Flag('mirror', 'prepare_data.mirror', 'address that stands for all hosts', 'URL'),
    ),
    'tasks': (
        dataclasses.replace(_MODEL, help='whose tokenizer counts tokens: folder, '
                            'package:NAME/folder or Hugging Face id'),
        _TASK, _DATA,
        Flag('examples', 'tasks.examples', 'to show', 'N'),
    ),
    'plan': (
        Flag('model', 'plan_request.model', 't5-1.1-small, ... -xxl, or a folder with config.json',
             'NAME'),
        Flag('topology', 'plan_request.topology', 'the TPU, such as v5e:4x4; a bare v5e with '
             '--suggest', 'NAME'),
        Flag('mesh', 'plan_request.mesh', 'how devices share the work, such as data:2,model:8',
             'AXES'),
        Flag('batch_size', 'plan_request.batch_size', 'examples an update', 'N'),
        Flag('inputs_length', 'plan_request.inputs_length', 'tokens of an input', 'N'),
        Flag('targets_length', 'plan_request.targets_length', 'tokens of a target', 'N'),
        Flag('prompt_length', 'plan_request.prompt_length', 'rows of the prompt', 'N'),
        Flag('prefix_length', 'plan_request.prefix_length', 'positions of a prefix', 'N'),
        Flag('weights', 'plan_request.weights', 'how the frozen weights are kept',
             choices=('bfloat16', 'int8')),
        Flag('remat', 'plan_request.remat', 'what the backward pass computes again; without it the '
             'first that fits', choices=('none', 'dots', 'full')),
        Flag('microbatches', 'plan_request.microbatches', 'parts of a batch, one after the other',
             'N'),
        Flag('shard_weights_over_data', 'plan_request.shard_weights_over_data',
             'spread the weights over the data axis too', switch=True),
        Flag('generate', 'plan_request.generate', 'plan generation instead of training',
             switch=True),
        Flag('suggest', 'plan.suggest_one', 'try meshes, memory options and int8, and print the '
             'quickest that fits', switch=True),
        Flag('json', 'plan.json_only', 'print JSON', switch=True),
    ),
    'compare': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('output', 'compare.output', 'folder of the comparison', 'FOLDER'),
    ),
    'convert': (
        dataclasses.replace(_MODEL, binding='convert.source'),
        Flag('output', 'convert.output', 'folder to write', 'FOLDER'),
        Flag('weights', 'convert.weights', 'how to keep the kernels',
             choices=('float32', 'bfloat16', 'int8')),
        Flag('overwrite', 'convert.overwrite', 'replace a converted model', switch=True),
    ),
    'search': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('strategy', 'search.strategy', 'how to search', choices=(
            'templates', 'label_words', 'hotflip', 'gcg', 'pez', 'bdpl', 'instructions'),
             constructor=True),
        Flag('output', 'search.output', 'folder of the search', 'FOLDER'),
        Flag('budget', 'search_settings.budget', 'in model calls, of which one is one example '
             'scored once', 'N'),
        Flag('template', 'search_settings.template', 'with {search} where words are searched, '
             'columns in braces, and {answer} for a cloze', 'TEXT'),
    ),
    'serve': (
        _MODEL, _MESH, _WEIGHTS,
        Flag('prompts', 'serve.prompts', 'folder of prompt files, which is watched', 'FOLDER'),
        Flag('host', 'server.host', 'address to listen on; 127.0.0.1 unless given', 'ADDRESS'),
        Flag('port', 'server.port', '8000 unless given; 0 for a free one', 'N'),
        Flag('log', 'server.log', 'keep a sample of the requests here, for `jax-prompt monitor`; '
             'off unless given', 'FOLDER'),
        Flag('log_share', 'server.log_share', 'of the requests that are kept; 0.01 unless given',
             'SHARE'),
        Flag('log_texts', 'server.log_texts', 'keep the texts of these requests too', switch=True),
        Flag('num_beams', 'server.num_beams', 'of the beam search that requests may ask for; none '
             'unless given', 'N'),
    ),
    'import': (
        _MODEL, _TASK,
        Flag('source', 'import_prompt.source', "PEFT's adapter folder (on the hub: "
             'OWNER/NAME@REVISION), a T5X checkpoint or a numpy file', 'PATH'),
        Flag('parameter', 'import_prompt.parameter', 'which of several prompts: an array of a T5X '
             "checkpoint, or the number of a task of PEFT's multitask prompt tuning", 'NAME'),
        Flag('output', 'import_prompt.output', 'prompt file to write', 'FILE'),
        Flag('overwrite', 'import_prompt.overwrite', 'replace a prompt file that is there',
             switch=True),
    ),
    'export': (
        Flag('prompt', 'export_prompt.prompt', 'prompt file', 'FILE'),
        Flag('to', 'export_prompt.to', 'for which tool', choices=('peft', 'numpy')),
        Flag('output', 'export_prompt.output', 'folder for PEFT, or file for numpy', 'PATH'),
        Flag('base_model', 'export_prompt.base_model', 'what PEFT loads the model by', 'ID'),
        Flag('overwrite', 'export_prompt.overwrite', 'replace what is there', switch=True),
        Flag('push', 'export_prompt.push', 'upload to this repository of the Hugging Face hub',
             'OWNER/NAME'),
        Flag('private', 'export_prompt.private', 'make the repository a private one', switch=True),
    ),
    'prompts': (
        Flag('prompts', 'prompts.prompts', 'the folder, which servers may watch', 'FOLDER'),
        Flag('prompt', 'prompts.prompt', 'which one, or NAME for what it means', 'NAME@VERSION'),
        Flag('file', 'registry_change.file', 'prompt file to add', 'FILE'),
        Flag('parent', 'registry_change.parent', 'the version that an added one was made from; the '
             'promoted one, else the highest, unless given', 'VERSION'),
        Flag('run', 'registry_change.run', "what trained an added one; the folder of the file's "
             'run unless given', 'TEXT'),
        Flag('with', 'prompts.other', 'to tell the difference from; from what NAME means unless '
             'given', 'NAME@VERSION'),
        Flag('tag', 'registry_change.tag', 'a further name for a version', 'TAG'),
        Flag('remove', 'registry_change.remove', 'take the tag away', switch=True),
        Flag('share', 'registry_change.share', 'of the requests that a canary gets; 0 ends it',
             'SHARE'),
        Flag('who', 'registry_change.who', 'does so, for the log; the user and the machine unless '
             'given', 'TEXT'),
        Flag('why', 'registry_change.why', 'for the log', 'TEXT'),
        Flag('json', 'prompts.json_only', 'print JSON', switch=True),
    ),
    'design': (
        _MODEL, _TASK, _DATA, _MESH, _WEIGHTS,
        Flag('output', 'make_design.output', 'design file to write', 'FILE'),
        Flag('template', 'design.template', "the input, with {answer} in the answer's place: "
             "'{text} It was {answer}.'", 'TEXT'),
        Flag('instruction', 'design.instruction', 'stands in front of all else', 'TEXT'),
        Flag('shots', 'design.shots', 'solved examples in front of each input', 'N'),
        Flag('choice', 'design.choice', 'which examples',
             choices=('random', 'balanced', 'nearest')),
        Flag('calibrate', 'design.calibrate', 'take away what the labels score without content, or '
             'on average over training inputs', choices=('content_free', 'unlabelled')),
        Flag('prompt', 'make_design.prompt', 'prompt file whose rows stand around the words',
             'FILE'),
        Flag('overwrite', 'make_design.overwrite', 'replace a file that is there', switch=True),
    ),
    'similarity': (
        Flag('prompts', 'similarity.prompts', 'folder of prompt files', 'FOLDER'),
        Flag('prompt', 'similarity.prompt', 'to rank them by how alike they are to this one; all '
             'are compared with each other unless given', 'FILE'),
        Flag('by', 'similarity.by', 'which cosine ranks: of pairs of rows, averaged, or of mean '
             'rows', choices=('pairs', 'means')),
        Flag('json', 'similarity.json_only', 'print JSON', switch=True),
    ),
    'monitor': (
        _MODEL, _MESH, _WEIGHTS,
        Flag('prompts', 'monitor.prompts', 'folder of prompt files', 'FOLDER'),
        Flag('prompt', 'monitor.prompt', 'the only one to look at; all that are promoted unless '
             'given', 'NAME'),
        Flag('data', 'monitor_sources.data', 'fresh rows, labelled or not: a file, or a folder '
             'with a file for each prompt, such as NAME.csv', 'PATH'),
        Flag('log', 'monitor_sources.log', 'log of requests of `jax-prompt serve --log=FOLDER`',
             'FOLDER'),
        Flag('reference', 'monitor_sources.reference', 'rows to compare with, such as '
             "validation's: a file or a folder; measured once for each version", 'PATH'),
        Flag('output', 'monitor.output', 'folder of the history and of what was measured on the '
             'reference', 'FOLDER'),
        Flag('margin', 'monitor_settings.margin', 'by which a figure may fall; 0.02 unless given',
             'X'),
        Flag('alpha', 'monitor_settings.alpha', 'chance of a false alarm; 0.01 unless given',
             'P'),
        Flag('rollback', 'monitor.rollback', 'promote the version before one that has fallen',
             switch=True),
        Flag('json', 'monitor.json_only', 'print JSON', switch=True),
    ),
    'inspect': (
        Flag('prompt', 'inspect_prompt.prompt', 'prompt file, or another tool\'s', 'FILE'),
        Flag('parameter', 'inspect_prompt.parameter', 'which of several prompts, as for import',
             'NAME'),
        dataclasses.replace(_MODEL, help='to name the nearest words, the T5: folder, '
                            'package:NAME/folder or Hugging Face id',
                            also='inspect_prompt.model=@model()'),
        Flag('output', 'inspect_prompt.output', 'folder for a report: a page with pictures, and '
             'JSON', 'FOLDER'),
        dataclasses.replace(_TASK, help='for the report, to measure what each row is worth: a task '
                            'by name, or a file of rows (.csv, .jsonl, .parquet)'), _DATA,
        Flag('split', 'reading.split', 'of the task', 'SPLIT'),
        Flag('texts', 'reading.texts', 'file of lines whose attention to the rows the report '
             'shows; examples of the task otherwise', 'FILE'),
        Flag('against', 'reading.against', 'prompts to compare it with in the report: a file, a '
             'folder or a pattern', 'PATH'),
        Flag('start', 'reading.start', 'what the prompt started from; by default what its run has '
             'kept', 'FILE'),
        Flag('overwrite', 'reading.overwrite', 'replace a report that is there', switch=True),
        Flag('json', 'inspect_prompt.json_only', 'print JSON', switch=True),
    ),
}
