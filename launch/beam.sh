#!/usr/bin/env bash
# Prepares a data set or tags many files with Apache Beam, on this machine or on a cluster. The result is that without Beam.
#
#   launch/beam.sh --runner=direct [--workers=8] [--dry_run] -- PREPARE'S ARGUMENTS
#   launch/beam.sh --runner=flink --master=HOST:8081 -- --dataset=audioset_music --source=/shared/A --data_dir=/shared/D
#   launch/beam.sh --runner=spark --master=spark://HOST:7077 -- …
#   launch/beam.sh --runner=dataflow --project=P --region=R --temp=gs://BUCKET/tmp --image=IMAGE -- …
#   launch/beam.sh --command=tag --runner=direct -- --list=FILES.txt --output=TAGS
#
# Needs the extra [beam] in an environment without constraints.txt (docs/data.md); Flink and Spark also need Java here.
# The interpreter is $PYTHON, otherwise python3. On a cluster --image is a container image with genre_jax and its extra [beam].
# All workers must see the input and the output under the same paths: a shared file system that the workers, or the
# containers, mount. Buckets are neither read nor written; on Dataflow, mount the bucket or a Filestore share.
# --command: prepare (the default) or tag. --workers: number of processes (direct) or parallel tasks.
# --dry_run: prints the command, and starts nothing.
# Stop: Ctrl-C; on a cluster also cancel the job there. Resume: the same command again; finished shards and parts are kept.
set -u

runner='' command=prepare master='' project='' region='' temp='' image='' workers='' dry_run=''
fail() { echo "error: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --runner=*) runner=${1#*=} ;;
    --command=*) command=${1#*=} ;;
    --master=*) master=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --region=*) region=${1#*=} ;;
    --temp=*) temp=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --workers=*) workers=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown argument '$1': choose --runner, --command, --master, --project, --region, --temp, --image, --workers" \
         "or --dry_run, and write the arguments of genre_jax.prepare or genre_jax.tag after --" ;;
  esac
  shift
done
case $command in
  prepare | tag) ;;
  *) fail "unknown --command '$command': choose one of prepare, tag" ;;
esac
[ $# -gt 0 ] || fail "the arguments of genre_jax.$command are missing: write them after --"
need() { [ -n "$2" ] || fail "--runner=$runner needs $1"; }

options=()
case $runner in
  direct)
    class=DirectRunner
    options=(--direct_running_mode=multi_processing "--direct_num_workers=${workers:-0}") # 0: all cores
    ;;
  flink)
    class=FlinkRunner
    need --master=HOST:8081 "$master"
    options=("--flink_master=$master" "--parallelism=${workers:--1}") # -1: all slots
    ;;
  spark)
    class=SparkRunner
    need --master=spark://HOST:7077 "$master"
    options=("--spark_master_url=$master")
    [ -z "$workers" ] || fail "--workers has no effect on Spark: set the number of executors there"
    ;;
  dataflow)
    class=DataflowRunner
    need --project "$project"
    need --region "$region"
    need --temp=gs://… "$temp"
    need --image "$image"
    options=("--project=$project" "--region=$region" "--temp_location=$temp")
    [ -z "$workers" ] || options+=("--max_num_workers=$workers")
    ;;
  *) fail "unknown --runner '$runner': choose one of direct, flink, spark, dataflow" ;;
esac
case $runner in
  flink | spark) # the workers run the image's Python; without an image they run this interpreter on this machine (for a test)
    if [ -n "$image" ]; then
      options+=(--environment_type=DOCKER "--environment_config=$image")
    else
      options+=(--environment_type=LOOPBACK)
    fi
    ;;
  dataflow) options+=("--sdk_container_image=$image") ;;
esac

words=("${PYTHON:-python3}" -m "genre_jax.$command" "$@" "--beam_runner=$class")
for option in "${options[@]}"; do words+=("--beam_option=$option"); done
if [ -n "$dry_run" ]; then
  printf '%q ' "${words[@]}"
  echo
  exit 0
fi
exec "${words[@]}"
