#!/usr/bin/env bash
# Watch a run to its end. When the TPU is taken away, make a new one, set it up and start the same
# run again, which goes on from the bucket's last checkpoint; when the run fails, start it again.
#
#   resume.sh --name=prompts --zone=us-west4-a --project=my-project --accelerator_type=v5litepod-16 \
#       --spot --run=tickets --bucket=gs://my-bucket/runs --copy=tickets.csv -- train ...
#
# Give it what create.sh, setup.sh and launch.sh were given. Once the run is done, or has failed for
# good, the TPU is DELETED (--keep, --keep_on_failure). Ctrl-C ends the watching alone, except while
# a new TPU is made: then that one is deleted. Without a TPU of that name it makes one at once.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/watch.sh"

parse_flags 'name zone project accelerator_type runtime_version spot queued reserved network
subnetwork service_account internal_ips wait_minutes git_url git_ref with_demo run bucket copy
sync_seconds max_restarts internal_ip tunnel_through_iap poll_seconds delete_attempts keep
keep_on_failure arguments' "$@"
[[ -n $bucket ]] || refuse '--bucket is missing: without it there is nothing to resume from'
check_arguments
check_source
dry_state=PREEMPTED
watch_run 1
say "$run is done; it is in $bucket/$run"
((!keep)) || at_stake=0
