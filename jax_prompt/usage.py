"""What `--help` shows at its end, a command; as the flags, without importing anything heavy."""

EXAMPLES = {
    'train': 'examples:\n  jax-prompt train --gin_file=demo.gin\n'
             '  jax-prompt train --model=google/flan-t5-small --task=reviews.csv '
             '--output=runs/reviews \\\n      --gin.file_task.inputs_template="review: {text}" '
             '--gin.file_task.labels=auto',
    'sweep': 'example:\n  jax-prompt sweep --gin_file=sweep/reviews.gin '
             '--output=runs/sweep --trials=30',
    'evaluate': 'example:\n  jax-prompt evaluate --gin_file=demo.gin '
                '--prompt=runs/demo/prompt.safetensors --split=test',
    'predict': 'example:\n  echo "a film to remember" | jax-prompt predict '
               '--gin_file=demo.gin --prompt=runs/demo/prompt.safetensors',
    'compare': 'example:\n  jax-prompt compare --gin_file=compare/reviews.gin '
               '--output=runs/compare',
    'convert': 'example:\n  jax-prompt convert --model=google/t5-xl-lm-adapt --weights=int8 '
               '--output=models/xl-int8',
    'search': 'examples:\n  jax-prompt search --model=google/flan-t5-small --task=reviews.csv '
              '--strategy=gcg --output=runs/words\n'
              '  jax-prompt search --model=google/flan-t5-small --task=reviews.csv '
              '--strategy=templates \\\n      --template="{text} {search} {answer} {search}" '
              '--output=runs/templates',
    'serve': 'The token for changing prompts, and for everything where other machines can ask, is '
             'read from JAX_PROMPT_TOKEN.\n\n'
             'example:\n  jax-prompt serve --model=google/flan-t5-base --prompts=prompts/',
    'data': 'example:\n  jax-prompt data prepare --task=super_glue --data_dir=data\n'
            '  jax-prompt train --gin_file=superglue.gin --model=google/t5-base-lm-adapt '
            '--data_dir=data',
    'tasks': 'examples:\n  jax-prompt tasks list\n'
             '  jax-prompt tasks show --task=reviews.csv --model=google/flan-t5-small',
    'plan': 'example:\n  jax-prompt plan --model=t5-1.1-xxl --topology=v5e:1x1 --batch_size=8 '
            '--weights=int8',
    'import': 'example:\n  jax-prompt import --model=google/t5-large-lm-adapt '
              '--task=reviews.csv --source=adapter/ \\\n      --output=prompt.safetensors',
    'export': 'example:\n  jax-prompt export --prompt=runs/demo/prompt.safetensors --to=peft '
              '--output=adapter/',
    'prompts': 'examples:\n  jax-prompt prompts add --prompts=prompts/ --prompt=reviews '
               '--file=runs/demo/prompt.safetensors\n'
               '  jax-prompt prompts promote --prompts=prompts/ --prompt=reviews@2 '
               '--why="better on late orders"\n'
               '  jax-prompt prompts rollback --prompts=prompts/ --prompt=reviews',
    'design': "example:\n  jax-prompt design --gin_file=demo.gin --template='{text} It was "
              "{answer}.' \\\n      --gin.design.words=\"{'negative': ['terrible', 'bad'], "
              "'positive': ['great', 'good']}\" \\\n      --shots=4 --output=design.safetensors",
    'similarity': 'example:\n  jax-prompt similarity --prompt=runs/early/prompt.safetensors '
                  '--prompts=runs/sources',
    'monitor': 'Exits 3 where a figure has fallen or requests have drifted.\n\n'
               'example:\n  jax-prompt monitor --model=google/flan-t5-base --prompts=prompts/ '
               '--prompt=tickets \\\n      --reference=validation.csv --data=fresh.csv '
               '--output=monitoring/',
    'inspect': 'examples:\n  jax-prompt inspect --prompt=runs/demo/prompt.safetensors '
               '--model=package:traceforge_title_model/data/span\n'
               '  jax-prompt inspect --gin_file=demo.gin --prompt=runs/demo/prompt.safetensors '
               '\\\n      --model=package:traceforge_title_model/data/span --output=reading',
}
