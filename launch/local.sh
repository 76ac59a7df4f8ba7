#!/usr/bin/env bash
# Starts genre_jax.main as several processes on this machine, which train together as several hosts would.
#
#   launch/local.sh [--processes=2] [--devices=2] [--platform=auto|cpu|cuda] [--grace=60] [--dry_run] -- MAIN'S ARGUMENTS
#   launch/local.sh --processes=2 --devices=2 -- --config=bytenet:demo --workdir=runs/two
#
# Needs bash 3.2 or newer. The interpreter is $PYTHON, else .venv/bin/python of the checkout if it exists, else python3.
# --devices: devices of each process: virtual CPU devices, or its share of the NVIDIA GPUs, which CUDA_VISIBLE_DEVICES limits.
# --dry_run: prints the commands, and starts nothing.
# Lines of process 1, 2, … begin with [1], [2], …. The exit code is that of the first process that fails.
# Stop: Ctrl-C or SIGTERM, which is passed on to each process once. They save the state and end with 130 or 143.
# If a process fails or is killed, the others have --grace seconds to end; then they are terminated.
# Resume: the same command again, also with other numbers of processes and devices.
set -u

processes=2 devices=2 platform=auto grace=60 dry_run=
fail() { echo "error: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --platform=*) platform=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown argument '$1': choose --processes=N, --devices=N, --platform=auto|cpu|cuda, --grace=SECONDS or" \
         "--dry_run, and write the arguments of genre_jax.main after --" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "the arguments of genre_jax.main are missing: write them after --, such as -- --config=bytenet:demo"
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes must be a whole number of at least 1, and was given '$processes'"
[[ $devices =~ ^[1-9][0-9]*$ ]] || fail "--devices must be a whole number of at least 1, and was given '$devices'"
[[ $grace =~ ^[0-9]+$ ]] || fail "--grace must be a whole number of seconds, and was given '$grace'"

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-}
[ -n "$python" ] || { [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python; } || python=python3

gpus=()
if [ "$platform" != cpu ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=, read -r -a gpus <<< "$CUDA_VISIBLE_DEVICES"
elif [ "$platform" != cpu ] && command -v nvidia-smi > /dev/null; then
  while IFS= read -r index; do gpus+=("$index"); done < <(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null)
fi
case $platform in
  auto) if [ ${#gpus[@]} -gt 0 ]; then platform=cuda; else platform=cpu; fi ;;
  cpu | cuda) ;;
  *) fail "unknown --platform '$platform': choose one of auto, cpu, cuda" ;;
esac
if [ "$platform" = cuda ] && [ ${#gpus[@]} -lt $((processes * devices)) ]; then
  fail "$processes processes with $devices GPUs each need $((processes * devices)) GPUs, and this machine offers ${#gpus[@]}:" \
    "choose smaller --processes or --devices, or --platform=cpu"
fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') ||
  fail "the Python interpreter '$python' does not start: set PYTHON to another one"

command=() # the command of process $1: `env VARIABLE=VALUE … python -m genre_jax.main …`
compose() {
  local rank=$1 visible
  shift
  if [ "$platform" = cpu ]; then
    command=(env JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")
  else
    visible=$(IFS=,; echo "${gpus[*]:$((rank * devices)):$devices}")
    command=(env "CUDA_VISIBLE_DEVICES=$visible")
  fi
  command+=("$python" -m genre_jax.main "$@" "--coordinator=127.0.0.1:$port" "--processes=$processes" "--process_id=$rank")
}

if [ -n "$dry_run" ]; then
  for ((rank = 0; rank < processes; rank++)); do
    compose "$rank" "$@"
    printf '%q ' "${command[@]}"
    echo
  done
  exit 0
fi

pids=() readers=()
signal_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -"$1" "$pid" 2> /dev/null; done
}
trap 'signal_all INT' INT
trap 'signal_all TERM' TERM

prefix() { # copies lines, with the number of the process before them; a signal to the terminal's group must not end it
  trap '' INT TERM
  while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

# With `set -m` each process gets a process group. Otherwise bash would make it ignore SIGINT, and Ctrl-C would reach it twice.
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
set -m
for ((rank = 0; rank < processes; rank++)); do
  compose "$rank" "$@"
  if [ "$rank" = 0 ]; then
    "${command[@]}" < /dev/null &
  else
    mkfifo "$folder/$rank"
    prefix "$rank" < "$folder/$rank" &
    readers+=($!)
    "${command[@]}" < /dev/null > "$folder/$rank" 2>&1 &
  fi
  pids+=($!)
done
set +m

exec 3>&2 2> /dev/null # bash reports a process that was killed with its line in this file; the loop names the process instead
code=0 since='' terminated=''
while [ ${#pids[@]} -gt 0 ]; do
  for rank in "${!pids[@]}"; do
    if kill -0 "${pids[rank]}"; then continue; fi
    wait "${pids[rank]}"
    status=$?
    unset "pids[rank]"
    case $status in 134 | 137 | 139) echo "error: process $rank was killed (SIG$(kill -l $status))" >&3 ;; esac
    if [ $code = 0 ] && [ $status != 0 ]; then code=$status since=$SECONDS; fi
  done
  [ ${#pids[@]} -gt 0 ] || break
  if [ -n "$since" ]; then
    late=$((SECONDS - since - grace))
    if [ $late -ge 10 ]; then
      signal_all KILL
    elif [ $late -ge 0 ] && [ -z "$terminated" ]; then
      echo "error: not all processes ended within $grace s after one of them had failed: the others are terminated" >&3
      terminated=1
      signal_all TERM
    fi
  fi
  sleep 0.2
done
wait ${readers[@]+"${readers[@]}"}
exit $code
