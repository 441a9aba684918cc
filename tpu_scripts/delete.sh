#!/usr/bin/env bash
# Delete a TPU VM and its queued resource, and look until both are gone. Exits 4 where it cannot
# make sure of it.
#
#   delete.sh --name=prompts --zone=us-west4-a --project=my-project
#
# What is not in a bucket is lost with it: fetch.sh first.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project poll_seconds delete_attempts' "$@"
dry_state=READY
delete_tpu || exit "$EXIT_NOT_DELETED"
