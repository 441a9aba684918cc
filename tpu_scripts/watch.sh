#!/usr/bin/env bash
# Watching a run to its end through failures and preemptions. Sourced, never run.
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

# Put into `progress` how the run stands: running, done, failed, hopeless or unreachable.
look_at_run() {
  progress=unreachable
  if ((dry_run)); then
    worker_script all status "$run"
    progress='done'
    return
  fi
  worker_script all status "$run" >"$scratch/status" 2>"$scratch/errors" || return 0
  if grep -q 'state=finished code=2$' "$scratch/status"; then
    progress=hopeless
  elif grep -q 'state=other' "$scratch/status"; then
    progress=other
  elif grep -q -E 'state=(finished code=[1-9][0-9]*|lost|none)' "$scratch/status"; then
    progress=failed
  elif grep -q 'state=running' "$scratch/status"; then
    progress=running
  elif grep -q 'state=finished code=0$' "$scratch/status"; then
    progress='done'
  fi
}

# Delete what was taken away, and set the same run up on a new TPU; training goes on from the
# bucket's last checkpoint.
renew_tpu() {
  local attempt unusable=0
  launched=0 watching=0 owned=1
  for ((attempt = 1; attempt <= 10; attempt++)); do
    at_stake=1
    delete_tpu || exit "$EXIT_NOT_DELETED"
    dry_state=ABSENT
    if request_tpu && await_tpu; then
      if setup_workers && launch_run; then
        watching=$leave_on_signal
        return
      fi
      # It may have been taken away again meanwhile, or nothing like it can be set up.
      ((++unusable < 3)) || break
    fi
    say "no TPU yet (attempt $attempt of 10)"
    pause
  done
  die 'giving up on a new TPU; the run is in the bucket, and resume.sh goes on with it'
}

# watch_run LEAVE: follow a run to its end through preemptions. With LEAVE=1 a signal ends the
# watching alone.
watch_run() {
  local leave_on_signal=$1 progress='' told='' restarts=0 unreachable=0
  owned=1 at_stake=1 launched=1 watching=$leave_on_signal
  while :; do
    look_up tpu-vm
    case $state in
      READY) look_at_run ;;
      PREEMPTED | TERMINATED | STOPPED | ABSENT)
        say "$name was taken away ($state); resuming $run on a new one"
        renew_tpu
        restarts=0
        continue
        ;;
      *) progress=waiting ;;
    esac
    [[ "$state $progress" == "$told" ]] || say "$name is $state, $run is $progress"
    told="$state $progress"
    case $progress in
      done) return 0 ;;
      other)
        at_stake=0
        say "another run is in progress on $name, which is left alone"
        exit "$EXIT_BUSY"
        ;;
      hopeless)
        worker_script 0 logs "$run" 5 0 || true
        die "$run ended with what only you can mend: see its last lines above"
        ;;
      failed)
        ((++restarts <= max_restarts)) || die "$run failed $restarts times; its log is in the bucket"
        say "$run failed; starting it again (restart $restarts of $max_restarts)"
        worker_script all stop "$run" || true
        watching=0
        # Where a host is gone the state of the TPU will say so in a moment.
        launch_run || say 'it did not start; looking again'
        watching=$leave_on_signal
        ;;
      unreachable) ((++unreachable < 20)) || die "the workers did not answer $unreachable times in a row" ;;
      *) unreachable=0 ;;
    esac
    pause
  done
}
