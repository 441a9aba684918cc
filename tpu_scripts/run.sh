#!/usr/bin/env bash
# Everything in a row: create a TPU, set it up, train, resume after preemptions, fetch the results,
# delete the TPU. However it ends, by failure or by Ctrl-C too, the TPU is deleted.
#
#   run.sh --name=prompts --zone=us-west4-a --project=my-project --accelerator_type=v5litepod-16 \
#       --spot --run=tickets --bucket=gs://my-bucket/runs --copy=tickets.csv -- train ...
#
# The same command again goes on with the run from the bucket. Let it run where it can stay
# connected for hours (in tmux, on a small VM): without it, nobody deletes the TPU. See also
# launch.sh about what follows --.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/watch.sh"

parse_flags 'name zone project accelerator_type runtime_version spot queued reserved network
subnetwork service_account internal_ips wait_minutes git_url git_ref with_demo run bucket copy
sync_seconds max_restarts internal_ip tunnel_through_iap destination poll_seconds delete_attempts
keep keep_on_failure arguments' "$@"
[[ -n $bucket ]] || refuse '--bucket is missing: results would be lost with the TPU'
check_arguments
check_source
create_tpu
setup_workers || die "setting up $name failed"
launch_run || die "$run is not started on $name"
watch_run 0
fetch_results
((!keep)) || at_stake=0
