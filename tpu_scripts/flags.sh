#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2154 # shared with lib.sh, which sources this
# The flags of all scripts: their defaults, what --help says of them, and what they may be. Sourced
# by lib.sh, never run.

# Every flag of every script, by its default; a script takes those that it names to parse_flags.
name='' zone='' project=''
accelerator_type='' runtime_version='' network='' subnetwork='' service_account=''
run='' bucket='' destination='' git_url='' git_ref='' worker=0 lines=50
poll_seconds=30 sync_seconds=300 wait_minutes=720 max_restarts=10 delete_attempts=10
spot=0 queued=0 reserved=0 internal_ips=0 internal_ip=0 tunnel_through_iap=0
follow=0 with_demo=0 keep=0 keep_on_failure=0 dry_run=0
copy=() arguments=()

# The line of a flag in --help.
flag_help() {
  case $1 in
    name) echo '--name=NAME|the TPU VM; with --queued also the queued resource (required)' ;;
    zone) echo '--zone=ZONE|such as us-west4-a (required)' ;;
    project) echo '--project=PROJECT|the Google Cloud project that pays (required)' ;;
    accelerator_type) echo '--accelerator_type=TYPE|such as v5litepod-16, v5p-8, v6e-8, v4-8 (required)' ;;
    runtime_version) echo '--runtime_version=VERSION|software of the VM; by the type otherwise' ;;
    network) echo '--network=NETWORK|of the VM; the default network otherwise' ;;
    subnetwork) echo '--subnetwork=SUBNETWORK|of the VM' ;;
    service_account) echo '--service_account=EMAIL|of the VM; it must be able to write the bucket' ;;
    spot) echo '--spot|cheap capacity that may be taken away at any moment' ;;
    queued) echo '--queued|ask by a queued resource and wait for capacity' ;;
    reserved) echo '--reserved|use a reservation' ;;
    internal_ips) echo '--internal_ips|give the VM no public address' ;;
    internal_ip) echo '--internal_ip|connect by internal addresses' ;;
    tunnel_through_iap) echo '--tunnel_through_iap|connect through the Identity-Aware Proxy (gcloud alpha)' ;;
    git_url) echo '--git_url=URL|let the workers clone this instead of copying the checkout' ;;
    git_ref) echo '--git_ref=REF|commit, tag or branch of --git_url' ;;
    with_demo) echo '--with_demo|install the model and the reviews of demo.gin too' ;;
    run) echo '--run=RUN|a name for the run; the same name resumes it (required)' ;;
    bucket) echo '--bucket=gs://BUCKET/FOLDER|where the run is kept; RUN is added to it' ;;
    sync_seconds) echo "--sync_seconds=N|how often the run's folder is copied to the bucket ($sync_seconds)" ;;
    copy) echo '--copy=FILE|put FILE beside the command on every worker; repeatable' ;;
    destination) echo '--destination=FOLDER|where results go (runs/RUN)' ;;
    worker) echo "--worker=N|which worker's log, or all ($worker)" ;;
    lines) echo "--lines=N|how many of the last lines ($lines)" ;;
    follow) echo '--follow|go on until the run ends' ;;
    poll_seconds) echo "--poll_seconds=N|between two looks at a state ($poll_seconds)" ;;
    wait_minutes) echo "--wait_minutes=N|how long to wait for capacity, then give up ($wait_minutes)" ;;
    max_restarts) echo "--max_restarts=N|how often a run that failed is started again ($max_restarts)" ;;
    delete_attempts) echo "--delete_attempts=N|how often to try a deletion ($delete_attempts)" ;;
    keep) echo '--keep|leave the TPU when the run is done' ;;
    keep_on_failure) echo '--keep_on_failure|leave the TPU, and its cost, when a step fails' ;;
    dry_run) echo '--dry_run|print every command and run none' ;;
    help) echo '--help|this text' ;;
  esac
}

# Print the comment at the top of the script, then its flags.
usage() {
  local flag
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"
  printf '\nFlags:\n'
  for flag in $1; do
    flag_help "$flag" | awk -F'|' '{ printf "  %-32s %s\n", $1, $2 }'
  done
}

is_switch() {
  case $1 in
    spot | queued | reserved | internal_ips | internal_ip | tunnel_through_iap | follow | \
      with_demo | keep | keep_on_failure | dry_run | help) return 0 ;;
  esac
  return 1
}

# parse_flags 'FLAGS IT TAKES' "$@": set the variable of each flag; what follows -- is `arguments`.
parse_flags() {
  local taken="${1//$'\n'/ } dry_run help" word flag
  shift
  while (($#)); do
    word=$1
    shift
    if [[ $word == -- ]]; then
      [[ " $taken " == *' arguments '* ]] || refuse "takes no arguments after --; got: $*"
      arguments=("$@")
      break
    fi
    flag=${word#--}
    flag=${flag%%=*}
    if [[ $word != --* || $flag == arguments || " $taken " != *" $flag "* ]]; then
      refuse "unknown argument '${word%%=*}'; see $script --help"
    elif is_switch "$flag"; then
      [[ $word == "--$flag" ]] || refuse "--$flag takes no value; got '$word'"
      [[ $flag != help ]] || { usage "$taken" && exit 0; }
      printf -v "$flag" 1
    elif [[ $word != *=* || -z ${word#*=} ]]; then
      refuse "--$flag needs a value: $(flag_help "$flag" | cut -d'|' -f1)"
    elif [[ $flag == copy ]]; then
      copy+=("${word#*=}")
    else
      printf -v "$flag" '%s' "${word#*=}"
    fi
  done
  # All values are checked before anything is run, so that a slip costs nothing.
  for flag in $taken; do check_flag "$flag"; done
  have_gcloud
}

# must_match FLAG PATTERN WHAT: refuse a value that is not of the form. Patterns hold no spaces, so
# that no value can be split or read as another flag.
must_match() {
  local value=${!1}
  [[ -n $value ]] || refuse "--$1 is missing: $(flag_help "$1" | tr '|' ' ')"
  [[ $value =~ ^($2)$ ]] || refuse "--$1='$value' is not $3"
}

if_given() { [[ -z ${!1} ]] || must_match "$@"; }

# must_count FLAG PATTERN WHAT: a number, of which the leading zeros go, since bash's arithmetic would
# read 08 as a wrong number of the base 8.
must_count() {
  local value
  must_match "$@"
  value=${!1}
  while [[ $value == 0[0-9]* ]]; do value=${value#0}; done
  printf -v "$1" '%s' "$value"
}

check_flag() {
  local file
  case $1 in
    name) must_match name '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' \
      'a name: small letters, digits and hyphens, a letter first, at most 63' ;;
    zone) must_match zone '[a-z]+(-[a-z]+)+[0-9]+-[a-z0-9]+' 'a zone, such as us-west4-a' ;;
    project) must_match project '[a-z][-a-z0-9.:]{4,61}[a-z0-9]' 'the id of a project' ;;
    accelerator_type) must_match accelerator_type 'v[2-9][a-z]*-[1-9][0-9]*' \
      'a type of accelerator, such as v5litepod-16' ;;
    runtime_version)
      [[ -n $runtime_version ]] || choose_runtime
      must_match runtime_version '[a-z0-9][-._a-z0-9]*' 'a runtime version'
      ;;
    network | subnetwork) if_given "$1" '[-a-z0-9/._:]+' 'the name of a network' ;;
    service_account) if_given service_account '[-a-z0-9._:]+@[-a-z0-9.]+' 'an email address' ;;
    run) must_match run '[A-Za-z0-9][-_.A-Za-z0-9]{0,63}' \
      'a name for a run: letters, digits, dots, hyphens and underscores' ;;
    bucket)
      if_given bucket 'gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](/[-_=A-Za-z0-9][-_.=A-Za-z0-9]*)*/?' \
        'an address such as gs://my-bucket/runs'
      bucket=${bucket%/}
      ;;
    git_ref) if_given git_ref '[A-Za-z0-9][-_./A-Za-z0-9]*' 'a commit, a tag or a branch' ;;
    git_url)
      [[ ! $git_url =~ ^https://[^/]*@|://[^/]*:[^/]*@ ]] ||
        refuse '--git_url holds a user name or a token, which logs would show: leave --git_url out' \
          'to copy this checkout, or name the repository without them'
      if_given git_url '(https|ssh|git)://[^[:space:]]+|git@[^[:space:]]+' 'the address of a repository'
      [[ -z $git_url && -z $git_ref || -n $git_url && -n $git_ref ]] ||
        refuse '--git_url and --git_ref go together: a version is pinned by both'
      ;;
    worker) must_count worker '[0-9]{1,6}|all' 'the number of a worker, or all' ;;
    # A run that has ended costs money until it is looked at.
    poll_seconds | sync_seconds)
      must_count "$1" '0*[0-9]{1,4}(\.[0-9]{1,6})?' 'a number below 10000'
      ;;
    wait_minutes) must_count "$1" '[0-9]{1,6}(\.[0-9]{1,6})?' 'a number of at most six digits' ;;
    lines | max_restarts) must_count "$1" '[0-9]{1,6}' 'a whole number of at most six digits' ;;
    # None at all would leave the TPU there, at its cost.
    delete_attempts) must_count delete_attempts '0*[1-9][0-9]{0,5}' 'a whole number, 1 or more' ;;
    destination) [[ $destination != -* && $destination != *:* ]] ||
      refuse "--destination='$destination' is not a folder of this machine" ;;
    tunnel_through_iap) ((!internal_ip || !tunnel_through_iap)) ||
      refuse '--internal_ip and --tunnel_through_iap exclude each other' ;;
    copy) for file in ${copy[@]+"${copy[@]}"}; do
      [[ -f $file && $file != -* && $file != *:* ]] || refuse "--copy='$file' is not a file here"
    done ;;
  esac
}

# The software that Cloud TPU names for each generation.
choose_runtime() {
  case $accelerator_type in
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) runtime_version=tpu-ubuntu2204-base ;;
    *) refuse "no runtime version is known for $accelerator_type; give --runtime_version=VERSION" ;;
  esac
}

have_gcloud() {
  ((dry_run)) || command -v gcloud >/dev/null ||
    refuse "there is no gcloud on the PATH; install the Google Cloud CLI and run 'gcloud auth login'"
}
