#!/usr/bin/env bash
# Set up every worker of a TPU VM: Python and the pinned packages of requirements-tpu.txt, and this
# checkout (its tracked files, as they are now) or a repository and version of your choice.
#
#   setup.sh --name=prompts --zone=us-west4-a --project=my-project
#
# If it fails on any worker, the VM is DELETED, so that it does not cost money for nothing, unless
# --keep_on_failure is given or the VM holds a run that is in no bucket. Setting up twice is free.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

parse_flags 'name zone project git_url git_ref with_demo internal_ip tunnel_through_iap poll_seconds
delete_attempts keep_on_failure' "$@"
check_source
setup_workers || die "setting up $name failed"
at_stake=0
