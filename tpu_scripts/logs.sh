#!/usr/bin/env bash
# Show the last lines of a run's log, or follow it until the run ends.
#
#   logs.sh --name=prompts --zone=us-west4-a --project=my-project --run=tickets --follow
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project run worker lines follow internal_ip tunnel_through_iap' "$@"
worker_script "$worker" logs "$run" "$lines" "$follow" || die "there is no log of $run on $name"
