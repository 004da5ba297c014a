#!/bin/sh
# Programs of the system that the tests and benchmarks run, given by name: browser, strace, redis, rabbitmq,
# nginx, supervisor, systemd, prometheus.
# What is missing is installed where that is allowed, one line each; else one command that installs all is named.
set -eu

is_there() {
    case $1 in
        browser) command -v chromium && command -v chromedriver ;;
        strace) command -v strace ;;
        redis) command -v redis-server ;;
        rabbitmq) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ;;
        nginx) [ -x /usr/sbin/nginx ] ;;
        supervisor) command -v supervisord ;;
        systemd) command -v systemd-analyze ;;
        prometheus) command -v prometheus ;;
    esac >/dev/null
}

packages_of() {
    case $1 in
        browser) echo chromium chromium-driver ;;
        strace) echo strace ;;
        redis) echo redis-server ;;
        rabbitmq) echo rabbitmq-server ;;
        nginx) echo nginx-light ;;
        supervisor) echo supervisor ;;
        systemd) echo systemd ;;
        prometheus) echo prometheus ;;
        *) echo "tests/system.sh does not know $1" >&2; exit 2 ;;
    esac
}

# Debian starts a server that it installs, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
forbid_starting() {
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
}

packages=
for name in "$@"; do
    packages_of "$name" >/dev/null
    is_there "$name" || packages="$packages $(packages_of "$name")"
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    for package in $packages; do
        echo "Installing $package: apt-get install --no-install-recommends $package"
    done
    forbid_starting
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

for name in "$@"; do
    if ! is_there "$name"; then
        echo "These programs are missing, and may not be installed from here. This installs all of them:" >&2
        echo "    sudo apt-get install --no-install-recommends$packages" >&2
        exit 1
    fi
done
