#!/bin/sh
# The Redis that the tests of Celery and the benchmarks' peers need: installed where we may, otherwise named.
set -eu
have() { command -v redis-server >/dev/null; }
if ! have && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null
fi
have || { echo "the tests and the benchmarks need a Redis: sudo apt-get install redis-server" >&2; exit 1; }
