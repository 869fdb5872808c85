#!/bin/sh
# Compiles the project's own crates so that libFuzzer sees which branches were taken. Cargo runs it in the place of rustc
# (RUSTC_WORKSPACE_WRAPPER), with the whole command line; dependencies are those of all other builds.
case " $* " in
*" --crate-name build_script_build "*) exec "$@" ;; # It runs while building, without libFuzzer.
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
