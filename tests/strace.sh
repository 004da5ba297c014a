#!/bin/sh
# What the tests record and disturb system calls with: installed where we may, otherwise named.
set -eu
have() { command -v strace >/dev/null; }
if ! have && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace >/dev/null
fi
have || { echo "make test needs strace: sudo apt-get install strace" >&2; exit 1; }
