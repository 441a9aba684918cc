#!/usr/bin/env bash
# Start jax-prompt on all workers of a TPU VM that is set up. It goes on when the connection drops.
#
#   launch.sh --name=prompts --zone=us-west4-a --project=my-project --run=tickets \
#       --bucket=gs://my-bucket/runs --copy=tickets.csv -- train --model=google/flan-t5-xl \
#       --task=tickets.csv --gin.file_task.inputs_template="ticket: {body}"
#
# What follows -- are the arguments of jax-prompt, which arrive as they are. A training's --output is
# set by the workers, which keep it in the bucket: a run that is there already goes on from its last
# checkpoint. Relative paths are those of files given by --copy. While a run is in progress a second
# launch is refused. If it fails, the VM is DELETED, unless --keep_on_failure is given or the VM
# holds a run that is in no bucket.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project run bucket copy sync_seconds internal_ip tunnel_through_iap
poll_seconds delete_attempts keep_on_failure arguments' "$@"
check_arguments
launch_run || die "$run is not started on $name"
at_stake=0
