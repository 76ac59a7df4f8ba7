#!/usr/bin/env bash
# Trains a run on a Cloud TPU slice: queues for it, installs this commit on all of its hosts, runs, and deletes the slice.
#
#   launch/tpu_vm.sh --name=run1 --zone=us-central2-b --type=v4-32 --runtime=tpu-ubuntu2204-base [--spot] [--project=P]
#       [--attempts=1] [--steps=create,install,run,delete] [--dry_run] -- MAIN'S ARGUMENTS
#   launch/tpu_vm.sh --name=run1 --zone=us-central2-b --type=v4-32 --spot --attempts=20 -- \
#       --config=bytenet --workdir=gs://BUCKET/runs/audioset --config.data.data_dir=gs://BUCKET/data \
#       --config.data.order=by_shard --config.data.sampling=uniform
#
# Needs the gcloud command, signed in, with quota for the TPU. The workdir and the data must be in a bucket that the service
# account of the TPU may use: the disks of the slice are deleted with it. --runtime is the software of the TPU VM.
# Uncommitted changes of the checkout are not installed.
# --dry_run: prints the commands, and starts nothing.
# --attempts: how often a slice is requested in all, if it is taken away (--spot). The run resumes from its last checkpoint.
# The slice is deleted at the end, also after an error or Ctrl-C, because it costs money; --steps=create,install,run keeps it.
# Stop: launch/tpu_vm.sh --name=run1 --zone=ZONE --steps=stop from another terminal saves the state. Ctrl-C does not.
# Resume, also on a slice of another size: the same command again.
set -u

name='' zone='' type='' runtime=tpu-ubuntu2204-base project='' spot='' attempts=1 steps=create,install,run,delete dry_run=''
fail() { echo "error: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=1 ;;
    --attempts=*) attempts=${1#*=} ;;
    --steps=*) steps=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown argument '$1': choose --name, --zone, --type, --runtime, --project, --spot, --attempts, --steps or" \
         "--dry_run, and write the arguments of genre_jax.main after --" ;;
  esac
  shift
done
has() { [[ ,$steps, = *,$1,* ]]; }
for step in ${steps//,/ }; do
  [[ $step =~ ^(create|install|run|stop|delete)$ ]] ||
    fail "unknown step '$step' in --steps: choose from create, install, run, stop, delete"
done
[ -n "$name" ] && [ -n "$zone" ] || fail "--name and --zone are needed"
! has create || [ -n "$type" ] || fail "--type is needed to create a slice, such as --type=v4-32"
! has run || [ $# -gt 0 ] || fail "the arguments of genre_jax.main are missing: write them after --"
workdir=''
for word in "$@"; do [[ $word != --workdir=* ]] || workdir=${word#*=}; done
! has run || [[ $workdir = *://* ]] ||
  fail "--workdir in the arguments of genre_jax.main must be a URL, such as --workdir=gs://BUCKET/runs/run1, because the" \
    "disks of the slice do not remain, and was given '$workdir'"
[[ $attempts =~ ^[1-9][0-9]*$ ]] || fail "--attempts must be a whole number of at least 1, and was given '$attempts'"

place=("--zone=$zone")
[ -z "$project" ] || place+=("--project=$project")
do_it() { # runs a command, or prints it
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
queue() { do_it gcloud compute tpus queued-resources "$@" "${place[@]}"; }
on_all() { do_it gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"; }
state() { gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)' 2> /dev/null; }

delete() { queue delete "$name" --force --quiet; }

create() {
  local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  [ -z "$spot" ] || options+=(--spot)
  if [ -n "$dry_run" ]; then
    queue create "$name" "${options[@]}"
    return
  fi
  case $(state) in FAILED | SUSPEND*) delete || return ;; esac
  [ -n "$(state)" ] || queue create "$name" "${options[@]}" || return
  until [ "$(state)" = ACTIVE ]; do
    case $(state) in
      FAILED | SUSPEND*)
        echo "error: the request $name ended in the state $(state)" >&2
        return 1
        ;;
    esac
    sleep 30
  done
}

install() {
  local root archive=genre_jax.tar.gz
  root=$(cd "$(dirname "$0")/.." && pwd)
  do_it git -C "$root" archive --format=tar.gz --output="/tmp/$archive" HEAD || return
  do_it gcloud compute tpus tpu-vm scp "/tmp/$archive" "$name:$archive" "${place[@]}" --worker=all || return
  # The images hold Python 3.10; uv brings 3.12.
  local pip="python3 -m uv pip install --quiet --python=.venv --constraint=constraints.txt --editable='.[tpu]'"
  local venv="python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python=3.12 .venv"
  on_all "mkdir -p genre_jax && tar -xzf $archive -C genre_jax && cd genre_jax && $venv && $pip"
}

run() { on_all "cd genre_jax && exec .venv/bin/python -m genre_jax.main --distributed$(printf ' %q' "$@")"; }

taken_away() { # a slice that is taken away can remain ACTIVE for some minutes after its hosts have gone
  local tries
  for ((tries = 0; tries < 18; tries++)); do
    [ "$(state)" = ACTIVE ] || return 0
    [ "$tries" != 0 ] || echo "the run ended with code $code: is the slice taken away? (waits 3 minutes at most)" >&2
    sleep 10
  done
  return 1
}

if has stop; then on_all "pkill -TERM -f '[g]enre_jax.main'"; fi
if has delete && has run && [ -z "$dry_run" ]; then trap delete EXIT; fi
trap 'exit 130' INT # otherwise Ctrl-C, which gcloud handles, would look like a slice that was taken away
code=0
for ((attempt = 1; attempt <= attempts; attempt++)); do
  code=0
  if has create; then create || code=$?; fi
  if [ $code = 0 ] && has install; then install || code=$?; fi
  if [ $code = 0 ] && has run; then run "$@" || code=$?; fi
  if [ $code = 0 ] || [ -n "$dry_run" ] || ! has create || [ "$attempt" = "$attempts" ] || ! taken_away; then
    break # another attempt makes sense only if the slice was taken away
  fi
done
if has delete && { ! has run || [ -n "$dry_run" ]; }; then delete; fi
exit $code
