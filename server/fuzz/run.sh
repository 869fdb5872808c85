#!/usr/bin/env bash
# Asks each decoder for as long as it is told, two at a time, from the committed corpus and what earlier runs found:
#   server/fuzz/run.sh [SECONDS [DECODER..]]
# It ends with 1 if any of them found a fault; target/fuzz/DECODER.log tells it, and target/fuzz/DECODER-crash-.. are the bytes that cause it:
#   FUZZ_TARGET=DECODER target/fuzz/decoders target/fuzz/DECODER-crash-..
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
shift || true
decoders=("$@")
[ ${#decoders[@]} -gt 0 ] || decoders=(json envelope csv oip binary bare grpc manifest aliases onnx)

mkdir -p target/fuzz
RUSTC_WORKSPACE_WRAPPER="$PWD/server/fuzz/cover.sh" cargo test --workspace --bench decoders --no-run 2>&1 | tee target/fuzz/build.log
cp "$(sed -n 's/.*Executable.*(\(.*\))$/\1/p' target/fuzz/build.log)" target/fuzz/decoders

ask() {
    local decoder=$1 found=target/fuzz/corpus/$1 seeds=(server/fuzz/corpus/"$1")
    # Models and manifests of the tests are seeds too.
    case $decoder in onnx | manifest) seeds=(server/tests/fixtures models) ;; esac
    mkdir -p "$found"
    if FUZZ_TARGET=$decoder target/fuzz/decoders "$found" "${seeds[@]}" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=16384 -artifact_prefix="target/fuzz/$decoder-" \
        -print_final_stats=1 >"target/fuzz/$decoder.log" 2>&1; then
        echo "$decoder: $(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$decoder.log") inputs, no fault"
    else
        echo "$decoder: a fault, see target/fuzz/$decoder.log:" >&2
        tail -n 15 "target/fuzz/$decoder.log" >&2
        return 1
    fi
}

failed=0
for ((at = 0; at < ${#decoders[@]}; at += 2)); do
    pids=()
    for decoder in "${decoders[@]:at:2}"; do
        ask "$decoder" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
done
exit "$failed"
