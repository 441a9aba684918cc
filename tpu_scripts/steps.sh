#!/usr/bin/env bash
# shellcheck source=lib.sh
# The steps of a run on a TPU; each script here calls one or several. Sourced after lib.sh, never
# run. A step that fails says so and returns 1; a script that dies of it deletes what is at stake.
[[ -n ${scripts_folder:-} ]] || . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# ---- create ----

create_flags() {
  local flag
  # The label finds what was left behind: see README.md.
  created_with=("--accelerator-type=$accelerator_type" --labels=created-by=jax-prompt)
  for flag in network subnetwork service_account; do
    [[ -z ${!flag} ]] || created_with+=("--${flag//_/-}=${!flag}")
  done
  # Without this scope a service account of one's own may not write the bucket.
  [[ -z $service_account ]] ||
    created_with+=(--scopes=https://www.googleapis.com/auth/cloud-platform)
  for flag in spot reserved internal_ips; do
    ((!${!flag})) || created_with+=("--${flag//_/-}")
  done
}

# Nothing of this name may exist: what is there already is somebody's, and must not be deleted when
# a step fails.
must_be_absent() {
  local group
  for group in queued-resources tpu-vm; do
    look_up "$group"
    case $state in
      ABSENT) ;;
      UNKNOWN) die "cannot tell whether $name is there already, so nothing was created" ;;
      *) refuse "$name is there already ($group, $state); choose another --name, use it with" \
        "setup.sh, or delete it with delete.sh" ;;
    esac
  done
}

# Ask for the TPU. Returns 1 where that failed; something may be there nevertheless.
request_tpu() {
  local created_with=()
  create_flags
  at_stake=1
  uncertain=1
  : >"$scratch/errors"
  if ((queued)); then
    tpu queued-resources create "$name" "--node-id=$name" "--runtime-version=$runtime_version" \
      "${created_with[@]}" 2>"$scratch/errors" || uncertain=2
  else
    tpu tpu-vm create "$name" "--version=$runtime_version" "${created_with[@]}" 2>"$scratch/errors" ||
      uncertain=2
  fi
  cat "$scratch/errors" >&2
  dry_state=READY
  ((uncertain != 2)) || {
    uncertain=1
    return 1
  }
  uncertain=0
}

# Wait until the TPU can be used. Returns 1 where it never will be, or not in time.
await_tpu() {
  local group=tpu-vm ready=READY unknown=0 seen='' patience_seconds=$((SECONDS + ${wait_minutes%%.*} * 60))
  ((!queued)) || group='queued-resources'
  ((!dry_run || !queued)) || dry_state=ACTIVE
  while :; do
    look_up "$group"
    case $state in
      ACTIVE)
        # The request is granted; the VM's own state decides.
        group=tpu-vm
        dry_state=READY
        continue
        ;;
      "$ready") return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | ABSENT | PREEMPTED | TERMINATED | STOPPED | STOPPING)
        say "$name will not come: $group is $state"
        return 1
        ;;
      UNKNOWN) ((++unknown < 20)) || {
        say "the state of $name could not be learned $unknown times in a row"
        return 1
      } ;;
      *) unknown=0 ;;
    esac
    if ((SECONDS >= patience_seconds)); then
      say "$name is still $state after $wait_minutes minutes (--wait_minutes)"
      return 1
    fi
    [[ $state == "$seen" ]] || say "$name: $group is $state; waiting"
    seen=$state
    pause
  done
}

create_tpu() {
  must_be_absent
  owned=1
  request_tpu || {
    ! grep -q ALREADY_EXISTS "$scratch/errors" || {
      at_stake=0 # made by somebody a moment ago
      refuse "$name is there already; choose another --name, or delete it if it is yours"
    }
    die "creating $name failed"
  }
  await_tpu || die "$name did not become ready"
  say "$name is ready and costs money from now on"
}

# ---- set up ----

# Refuse, before anything is created, what could not be set up.
check_source() {
  [[ -z $git_url ]] || return 0
  git -C "$scripts_folder" ls-files --error-unmatch worker.sh >/dev/null 2>&1 ||
    refuse "$scripts_folder is not in a git checkout; give --git_url and --git_ref"
}

# What the workers get: the tracked files of this checkout as they stand.
make_bundle() {
  local top version
  top=$(dirname "$scripts_folder")
  # A commit of the files as they are now, which changes nothing in the checkout; HEAD where there
  # is nothing to commit.
  version=$(git -C "$top" stash create)
  [[ -z $version ]] || say 'the checkout has changes that are not committed; they are copied too'
  step git -C "$top" archive --format=tar.gz "--output=$scratch/$1" "${version:-HEAD}"
}

# gcloud refuses to copy to several workers while an agent runs that does not hold its key.
offer_key() {
  local key=$HOME/.ssh/google_compute_engine
  [[ -n ${SSH_AUTH_SOCK:-} && -f $key ]] || return 0
  step ssh-add -q "$key" || say "the ssh agent does not take $key; copying may fail"
}

# A VM that is ready may still be starting its ssh server.
await_ssh() {
  local attempt
  for attempt in 1 2 3; do
    remote all true && return 0
    say "not all workers answer yet (attempt $attempt of 3)"
    pause
  done
  return 1
}

failed() {
  say "$*"
  return 1
}

# Returns 1 where it failed.
setup_workers() {
  local source=jax_prompt/source bundle=jax_prompt_source.tar.gz options=() code=0
  ((!with_demo)) || options=(demo)
  at_stake=1
  [[ -n $git_url ]] || make_bundle "$bundle" || failed 'the checkout could not be packed' || return
  await_ssh || failed "the workers of $name do not answer" || return
  offer_key
  # A worker that trains is left alone; one that was never set up has nothing to ask.
  remote all bash -c "[ ! -f $source/tpu_scripts/worker.sh ] || bash $source/tpu_scripts/worker.sh check" ||
    code=$?
  heed_check "$code"
  if [[ -n $git_url ]]; then
    # What the caller gave goes as arguments, which no shell reads.
    remote all bash -c "set -e; rm -rf $source; git init -q $source; cd $source; git fetch -q \
--depth=1 \"\$1\" \"\$2\"; git checkout -q --detach FETCH_HEAD" fetch "$git_url" "$git_ref" ||
      failed 'the workers could not clone the repository' || return
  else
    copy_files all "$scratch/$bundle" "$name:$bundle" || failed 'copying the checkout failed' || return
    remote all bash -c "set -e; rm -rf $source; mkdir -p $source; tar -xzf $bundle -C $source" ||
      failed 'unpacking the checkout failed' || return
  fi
  worker_script all setup ${options[@]+"${options[@]}"} ||
    failed "not all workers of $name could be set up" || return
  say "all workers of $name are set up"
}

# Heed what 'worker.sh check' (or start) answered by its exit code.
heed_check() {
  case $1 in
    "$EXIT_BUSY")
      ((owned)) || at_stake=0
      say "a run is in progress on $name: look with logs.sh, stop it with stop.sh"
      exit "$EXIT_BUSY"
      ;;
    5)
      ((owned)) || keep_on_failure=1
      say "$name holds a run that is in no bucket, so it is not deleted if this fails"
      ;;
  esac
}

# ---- launch ----

# Refuse arguments that could not work, before anything is run.
check_arguments() {
  local word
  ((${#arguments[@]})) ||
    refuse "what shall run is missing: give it after --, such as -- train --gin_file=demo.gin"
  case ${arguments[0]} in
    train | evaluate | predict) ;;
    *) refuse "'${arguments[0]}' is not a command of jax-prompt for workers (train, evaluate, predict)" ;;
  esac
  for word in "${arguments[@]}"; do
    [[ ${arguments[0]} != train || $word != --output && $word != --output=* ]] ||
      refuse "'$word': the run's folder is kept by the workers; give --run and --bucket instead"
  done
  [[ -n $bucket ]] || say 'without --bucket a run is lost with its TPU'
}

# Start the command on all workers, detached from this connection. Returns 1 where it failed.
launch_run() {
  local code=0
  worker_script all check || code=$?
  heed_check "$code"
  # Not set up (no such script there, or no stamp of it): a slip of the caller, no failure.
  ((owned || code != 127 && code != 6)) || refuse "$name is not set up; run setup.sh first"
  at_stake=1
  ((code == 0 || code == 5)) || failed "the workers of $name do not answer" || return
  ((!${#copy[@]})) || copy_files all "${copy[@]}" "$name:jax_prompt/files/" ||
    failed 'copying files to the workers failed' || return
  # Before any worker reads the bucket: what this very TPU has that the bucket has not goes there.
  [[ -z $bucket ]] || worker_script 0 claim "$run" "$bucket" ||
    failed "$bucket cannot be used" || return
  launched=1
  code=0
  worker_script all start "$run" "${bucket:--}" "$sync_seconds" "${arguments[@]}" || code=$?
  heed_check "$code"
  ((!code)) || failed 'not all workers started' || return
  say "$run is started on all workers of $name"
}

# ---- results ----

fetch_results() {
  local target=${destination:-runs/$run}
  step mkdir -p "$target"
  if [[ -n $bucket ]]; then
    step gcloud storage rsync "$bucket/$run" "$target" --recursive || die "fetching from the bucket failed"
  else
    copy_files 0 "$name:jax_prompt/runs/$run/output" "$name:jax_prompt/runs/$run/log" \
      "$target" --recurse ||
      die "fetching from $name failed"
  fi
  if ((!dry_run)); then
    [[ -n $(ls -A "$target/output" 2>/dev/null) ]] || die "nothing of $run is there to fetch"
    say "what there is of $run is in $target"
  fi
}
