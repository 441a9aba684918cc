#!/usr/bin/env bash
# Create a TPU VM, at once or by a queued resource, and wait until it is ready.
#
#   create.sh --name=prompts --zone=us-west4-a --project=my-project --accelerator_type=v5litepod-16 --spot
#
# What is there by that name already is left alone. If the creation fails, takes too long or is
# interrupted, the VM and the request are deleted. From then on the VM costs money until delete.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project accelerator_type runtime_version spot queued reserved network
subnetwork service_account internal_ips wait_minutes poll_seconds delete_attempts keep_on_failure' "$@"
create_tpu
at_stake=0
