#!/usr/bin/env bash
# Copy the results of a run to this machine, from its bucket, or from worker 0 without --bucket.
#
#   fetch.sh --name=prompts --zone=us-west4-a --project=my-project --run=tickets \
#       --bucket=gs://my-bucket/runs --destination=runs/tickets
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project run bucket destination internal_ip tunnel_through_iap' "$@"
fetch_results
