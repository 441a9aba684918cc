"""A stand-in for gcloud: a small cloud in a folder, whose workers are folders of this machine.

`main` is what a call does. It records each call, fails where it was told to, and otherwise does
what the real one would: VMs and queued resources are files that hold their state, buckets are
folders, and a command for a worker runs in a local shell whose home is the worker's folder.
"""

import json
import os
import pathlib
import sys
import time

# A test calls this many times over: what takes long to import is imported where it is used.

WORLD = pathlib.Path(os.environ['STAND_IN_WORLD'])


def main(args):
    record = WORLD / 'calls'
    with record.open('a') as calls:
        calls.write(json.dumps(args) + '\n')
    rule = find_rule(' '.join(args))
    if rule is None:
        return act(args)
    if rule.get('effect'):
        act(args)
    if rule.get('hang'):
        (WORLD / 'hanging.new').write_text(str(os.getpid()))
        (WORLD / 'hanging.new').rename(WORLD / 'hanging')
        time.sleep(30)
    print(rule.get('stderr', 'ERROR: (gcloud) told to fail'), file=sys.stderr)
    return rule.get('code', 1)


def find_rule(line):
    """Return the first rule for this call that is not used up."""
    path = WORLD / 'rules.json'
    if not path.exists():
        return None
    import re

    rules = json.loads(path.read_text())
    for rule in rules:
        if re.search(rule['match'], line) and rule.get('times', 1) != 0:
            rule['times'] = rule.get('times', 1) - 1
            path.write_text(json.dumps(rules))
            return rule
    return None


def act(args):
    if args[0] == 'alpha':
        args = args[1:]
    if args[0] == 'storage':
        return STORAGE[args[1]]([word for word in args[2:] if not word.startswith('--')], args)
    flags = dict(word[2:].split('=', 1) for word in args if word.startswith('--') and '=' in word)
    group, verb = args[2:4]
    if verb in ('ssh', 'scp'):
        if state_of('tpu-vm') != 'READY':
            return fail('the TPU VM is not READY')
        return {'ssh': ssh, 'scp': scp}[verb](args, flags)
    return {'create': create, 'describe': describe, 'delete': delete}[verb](group, args[4], flags)


def fail(message):
    print(f'ERROR: (gcloud) {message}', file=sys.stderr)
    return 1


def state_of(group):
    path = WORLD / group
    return path.read_text().strip() if path.exists() else None


def create(group, name, flags):
    if state_of(group):
        return fail('ALREADY_EXISTS: it is there')
    (WORLD / group).write_text('READY' if group == 'tpu-vm' else 'ACTIVE')
    (WORLD / 'tpu-vm').write_text('READY')
    for worker in range(int((WORLD / 'num_workers').read_text())):
        (WORLD / 'workers' / str(worker)).mkdir(parents=True)
    return 0


def describe(group, name, flags):
    # States that were lined up come first, one a look.
    script = WORLD / f'{group}.states'
    lines = script.read_text().split() if script.exists() else []
    state = lines[0] if lines else state_of(group)
    if lines:
        script.write_text('\n'.join(lines[1:]))
    if state is None:
        return fail(f"NOT_FOUND: Resource '{name}' was not found")
    print(state)
    return 0


def delete(group, name, flags):
    if state_of(group) is None:
        return fail('NOT_FOUND: nothing to delete')
    take_away()
    (WORLD / 'tpu-vm').unlink(missing_ok=True)
    (WORLD / group).unlink(missing_ok=True)
    return 0


def take_away():
    """End what runs on the workers and forget their disks."""
    import shutil
    import signal

    for pid in WORLD.glob('workers/*/jax_prompt/runs/*/pid'):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass
    # What was killed may still be making files for an instant.
    for _ in range(20):
        shutil.rmtree(WORLD / 'workers', ignore_errors=True)
        if not (WORLD / 'workers').exists():
            return
        time.sleep(0.02)


def chosen(flags):
    workers = sorted((WORLD / 'workers').iterdir())
    return workers if flags['worker'] == 'all' else [workers[int(flags['worker'])]]


def worker_environment(home):
    return {
        'HOME': str(home), 'STAND_IN_WORLD': str(WORLD), 'TPU_WORKER_ID': home.name,
        'PATH': f"{WORLD / 'worker_bin'}:{WORLD / 'bin'}:/usr/bin:/bin", 'SHELL': '/bin/bash',
        'TPU_WORKER_HOSTNAMES': ','.join(path.name for path in (WORLD / 'workers').iterdir()),
        'JAX_PROMPT_TICK_SECONDS': '0.05', 'JAX_PROMPT_GRACE_SECONDS': '5',
    }


def ssh(args, flags):
    import subprocess

    running = [subprocess.Popen(
        ['bash', '-c', flags['command']], cwd=home, env=worker_environment(home),
        stdin=subprocess.DEVNULL) for home in chosen(flags)]
    return next((code for code in [process.wait() for process in running] if code), 0)


def scp(args, flags):
    *sources, target = [word for word in args[4:] if not word.startswith('--')]
    for home in chosen(flags):
        for source in sources:
            copy(*(home / word.split(':', 1)[1] if ':' in word else pathlib.Path(word)
                   for word in (source, target)))
    return 0


def copy(source, target):
    import shutil

    if target.is_dir():
        target = target / source.name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def place(address):
    if not address.startswith('gs://'):
        return pathlib.Path(address)
    return WORLD / 'buckets' / address.removeprefix('gs://')


def files_of(folder):
    return {path.relative_to(folder) for path in folder.rglob('*') if path.is_file()}


def storage_rsync(words, args):
    import shutil

    source, target = map(place, words)
    if not source.is_dir():
        return fail(f'Did not find existing container at: {words[0]}')
    for path in files_of(source):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / path, target / path)
    if '--delete-unmatched-destination-objects' in args:
        for path in files_of(target) - files_of(source):
            (target / path).unlink()
    return 0


def storage_cat(words, args):
    if not place(words[0]).is_file():
        return fail(f'The following URLs matched no objects or files:\n-{words[0]}')
    sys.stdout.write(place(words[0]).read_text())
    return 0


def storage_ls(words, args):
    if not place(words[0]).is_dir():
        return fail('One or more URLs matched no objects.')
    return 0


def storage_cp(words, args):
    content = sys.stdin.read() if words[0] == '-' else place(words[0]).read_text()
    place(words[1]).parent.mkdir(parents=True, exist_ok=True)
    place(words[1]).write_text(content)
    return 0


STORAGE = {'rsync': storage_rsync, 'cat': storage_cat, 'ls': storage_ls, 'cp': storage_cp}
