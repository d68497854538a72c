#!/bin/sh
# The usual way, as the manuals have it, on the host itself (root, over ssh): sh -s release|rollback|reset VERSION
#   release   stop, check out, install, migrate, collect, start, look
#   rollback  check out, install, collect, restart, look; the database stays as it is
#   reset     the schema before 1.1.0 again, so that every round migrates; not measured
set -eu
action=$1 version=$2
cd /srv/usual/code
set -a
. /srv/usual/environment
set +a

manage() { runuser -u usual -- ../venv/bin/python manage.py "$@"; }
checkout() {
    git fetch -q --tags origin
    git checkout -q "v$version"
}
requirements() { ../venv/bin/pip install -q --disable-pip-version-check --root-user-action ignore -r requirements.lock; }
look() {
    for _ in $(seq 300); do
        if curl -fsSk -o /dev/null --max-time 2 --resolve portal.lab.test:443:127.0.0.1 https://portal.lab.test/healthz/ 2>/dev/null
        then return 0; fi
        sleep 0.1
    done
    echo "version $version does not answer within 30 s" >&2
    return 1
}

case $action in
release)
    systemctl stop usual.service
    checkout
    requirements
    manage migrate --noinput -v 0
    manage collectstatic --noinput -v 0
    systemctl start usual.service
    look ;;
rollback)
    checkout
    requirements
    manage collectstatic --noinput -v 0
    systemctl restart usual.service
    look ;;
reset)
    git checkout -q "v$version"
    manage migrate audits 0001 -v 0
    git checkout -q v1.0.0
    systemctl restart usual.service
    look ;;
esac
