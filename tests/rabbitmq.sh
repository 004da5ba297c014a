#!/bin/sh
# The RabbitMQ that the tests of Celery need: installed where we may, otherwise named. Installing it starts none.
set -eu
have() { [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; }
if ! have && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null
fi
have || { echo "the tests need a RabbitMQ: sudo apt-get install rabbitmq-server" >&2; exit 1; }
