#!/usr/bin/env bash
# Ask a run to save and stop, on all workers. The TPU VM stays, and costs money until delete.sh.
#
#   stop.sh --name=prompts --zone=us-west4-a --project=my-project --run=tickets
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project run internal_ip tunnel_through_iap' "$@"
worker_script all stop "$run" || die "$run could not be stopped on all workers of $name"
