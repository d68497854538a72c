#!/bin/sh
# The usual way, as the manuals of the five systems have it: stop, check out, install, migrate, collect, start, look.
set -eu
version=$1
systemctl stop usual.service
cd /srv/usual/code
git fetch -q --tags origin
git checkout -q "v$version"
../venv/bin/pip install -q --disable-pip-version-check -r requirements.lock
sed -i "s/^BACKSTAY_RELEASE_ID=.*/BACKSTAY_RELEASE_ID=$version/" /srv/usual/environment
set -a
. /srv/usual/environment
set +a
../venv/bin/python manage.py migrate --noinput -v 0
../venv/bin/python manage.py collectstatic --noinput -v 0
chown -R usual: /srv/usual/data
systemctl start usual.service
nginx -t -q
systemctl restart nginx
for _ in $(seq 120); do
    if ../venv/bin/python -c "
import http.client
asked = http.client.HTTPConnection('127.0.0.1', timeout=2)
asked.request('GET', '/healthz/', headers={'Host': 'portal.lab.test'})
raise SystemExit(asked.getresponse().status != 200)"; then exit 0; fi
    sleep 0.25
done
exit 1
