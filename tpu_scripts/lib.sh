#!/usr/bin/env bash
# shellcheck disable=SC2034 # the scripts that source this use what looks unused here
# What all scripts here share: showing and running commands, and the deletion of what costs money
# when a script does not come to its end. Flags stand in flags.sh. Sourced, never run.

# Exit codes: 1 a step failed, 2 the caller can mend it, 3 a run is in progress already,
# 4 something may still be there and cost money, 129/130/143 ended by a signal.
readonly EXIT_FAILED=1 EXIT_USAGE=2 EXIT_BUSY=3 EXIT_NOT_DELETED=4

# What stands between this script and a bill.
at_stake=0      # 1: delete the TPU when the script fails
owned=0         # 1: the TPU is this script's from beginning to end
uncertain=0     # 1: a creation was asked for and its outcome is not known
launched=0      # 1: training may be running there
watching=0      # 1: a signal ends the watching alone, and the run goes on
child=''        # the command being waited for
patience=''     # seconds until that is killed; '' for no end
state=''        # what look_up found
dry_state=ABSENT

script=$(basename "$0")
scripts_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jax_prompt.XXXXXX")
# The caller's own output and error stream: a signal may come while a command's are redirected.
exec 3>&1 4>&2

# One line, whatever flags and errors hold.
say() {
  local dry='' text="$*"
  ((!dry_run)) || dry=' (dry run)'
  printf '%s%s: %s\n' "$script" "$dry" "${text//[[:cntrl:]]/?}" >&4
}

# A failed step ends the script; on_exit then deletes what is at stake.
die() {
  say "$*"
  exit "$EXIT_FAILED"
}

refuse() {
  say "$*"
  exit "$EXIT_USAGE"
}

. "$scripts_folder/flags.sh"

# ---- commands ----

# Put the words into `quoted` as a line that any shell reads back as these very words.
quote() {
  local word tick="'"
  quoted=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//$tick/$tick\\$tick$tick}'"
    quoted+=" $word"
  done
  quoted=${quoted# }
}

# Show a command so that it can be pasted into a shell.
show() {
  local quoted
  quote "$@"
  if ((dry_run)); then printf '+ %s\n' "$quoted" >&3; else printf '+ %s\n' "$quoted" >&4; fi
}

# Run a command in the background of a process group of its own: Ctrl-C then reaches this script
# alone, at once, which ends the command and cleans up. Where `patience` is set, the command is
# killed after so many seconds.
attend() {
  local code=0 killer=''
  set -m
  "$@" </dev/null &
  child=$!
  if [[ -n $patience ]]; then
    { sleep "$patience" && kill -KILL -- "-$child"; } >/dev/null 2>&1 </dev/null 3>&- 4>&- &
    killer=$!
  fi
  set +m
  wait "$child" 2>/dev/null || code=$?
  child=''
  [[ -z $killer ]] || { kill -KILL -- "-$killer" && wait "$killer"; } 2>/dev/null || true
  return "$code"
}

# Show a command and run it, or only show it.
step() {
  show "$@"
  ((dry_run)) || attend "$@"
}

pause() { ((dry_run)) || attend sleep "${1:-$poll_seconds}"; }

# gcloud compute tpus GROUP VERB NAME FLAGS...
tpu() {
  local group=$1 verb=$2 target=$3
  shift 3
  step gcloud compute tpus "$group" "$verb" "$target" "--zone=$zone" "--project=$project" "$@" --quiet
}

# Put into `state` what Cloud TPU says of the VM or the queued resource: its state, ABSENT, or
# UNKNOWN where nothing was learned (which must never be taken for ABSENT).
look_up() {
  local format='value(state)'
  [[ $1 == tpu-vm ]] || format='value(state.state)'
  local command=(gcloud compute tpus "$1" describe "$name" "--zone=$zone" "--project=$project"
    "--format=$format")
  if ((dry_run)); then
    show "${command[@]}"
    state=$dry_state
    return
  fi
  if attend "${command[@]}" >"$scratch/state" 2>"$scratch/errors"; then
    state=$(tr -d '[:space:]' <"$scratch/state")
    state=${state:-UNKNOWN}
  elif grep -q -E 'NOT_FOUND|was not found' "$scratch/errors"; then
    state=ABSENT
  else
    state=UNKNOWN
    say "cannot tell the state of $name: $(grep -v '^ *$' "$scratch/errors" | head -n 1)"
  fi
}

# remote WORKER COMMAND...: run a command on a worker, or on all. Each word is quoted once for the
# shell there, so that it arrives as it is, whatever it holds.
remote() {
  local target=$1 quoted track=() how=()
  shift
  quote "$@"
  ((!internal_ip)) || how=(--internal-ip)
  ((!tunnel_through_iap)) || { track=(alpha) && how=(--tunnel-through-iap); }
  step gcloud ${track[@]+"${track[@]}"} compute tpus tpu-vm ssh "$name" "--zone=$zone" \
    "--project=$project" "--worker=$target" ${how[@]+"${how[@]}"} --ssh-flag=-oServerAliveInterval=30 \
    "--command=$quoted" --quiet
}

# copy_files FILE... DESTINATION, to or from NAME:PATH.
copy_files() {
  local target=$1 track=() how=()
  shift
  ((!internal_ip)) || how=(--internal-ip)
  ((!tunnel_through_iap)) || { track=(alpha) && how=(--tunnel-through-iap); }
  step gcloud ${track[@]+"${track[@]}"} compute tpus tpu-vm scp "$@" "--zone=$zone" \
    "--project=$project" "--worker=$target" ${how[@]+"${how[@]}"} --quiet
}

worker_script() {
  local target=$1
  shift
  remote "$target" bash jax_prompt/source/tpu_scripts/worker.sh "$@"
}

# ---- the end ----

# Delete the queued resource and the VM and look until both are gone.
delete_tpu() {
  local attempt group found waiting absent=0 force
  for ((attempt = 1; attempt <= delete_attempts; attempt++)); do
    found=0 waiting=0
    for group in queued-resources tpu-vm; do
      look_up "$group"
      [[ $state != ABSENT ]] || continue
      found=1
      [[ $state != DELETING && $state != UNKNOWN ]] || waiting=1
      [[ $state != DELETING ]] || continue
      force=()
      [[ $group == tpu-vm ]] || force=(--force) # the VM that the request made goes with it
      tpu "$group" delete "$name" ${force[@]+"${force[@]}"} || {
        waiting=1
        say "deleting the $group $name failed (attempt $attempt of $delete_attempts)"
      }
    done
    if ((dry_run)); then
      dry_state=ABSENT
      return 0
    fi
    # What was asked for a moment ago may still turn up: then one look is not enough.
    if ((!found && ++absent > uncertain)); then
      say "nothing named $name is left in $zone"
      return 0
    fi
    ((!waiting && found)) || pause
  done
  say "$name MAY STILL BE THERE AND COST MONEY. Look, and delete it by hand:"
  say "  gcloud compute tpus queued-resources delete $name --zone=$zone --project=$project --force"
  say "  gcloud compute tpus tpu-vm delete $name --zone=$zone --project=$project"
  return 1
}

# Ask the training to save and end, and wait a while: the bucket then has its last steps.
stop_training() {
  say 'asking the training to save and stop'
  patience=90 worker_script all stop "$run" || say 'it could not be asked, or did not stop'
}

on_exit() {
  local code=$?
  exec 1>&3 2>&4
  trap '' INT TERM HUP # nothing may cut the deletion short
  trap - EXIT
  if [[ -n $child ]]; then
    kill -TERM -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if ((at_stake && code)) && ((keep_on_failure)); then
    say "$name is kept, as --keep_on_failure says; it costs money until '$scripts_folder/delete.sh" \
      "--name=$name --zone=$zone --project=$project' deletes it"
  elif ((at_stake)); then
    ((!code)) || say "failed; deleting $name so that it costs nothing"
    ((!launched || !code)) || stop_training
    delete_tpu || code=$EXIT_NOT_DELETED
  fi
  rm -rf "$scratch"
  exit "$code"
}

on_signal() {
  say "$2"
  if ((watching)); then
    at_stake=0
    say "$run goes on and $name costs money: watch it with resume.sh, end it with delete.sh"
  fi
  exit "$1"
}

trap on_exit EXIT
trap 'on_signal 130 interrupted' INT
trap 'on_signal 143 "ended by SIGTERM"' TERM
trap 'on_signal 129 "the terminal is gone"' HUP
