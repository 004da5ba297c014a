#!/bin/sh
# The browser that the tests drive: installed where we may, otherwise named.
set -eu
have() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }
if ! have && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
fi
have || { echo "make test needs a browser: sudo apt-get install chromium chromium-driver" >&2; exit 1; }
