#!/bin/sh
# A host as the manuals make it: one checkout, one virtualenv, gunicorn behind nginx. Run as root on the host itself.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends nginx git python3-venv python3-pip >/dev/null
id usual >/dev/null 2>&1 || useradd --system --home-dir /srv/usual --shell /usr/sbin/nologin usual
mkdir -p /srv/usual/data/db /srv/usual/data/media /srv/usual/static
[ -d /srv/usual/code ] || git clone -q /srv/portal.git /srv/usual/code
cd /srv/usual/code
git checkout -q v1.0.0
[ -d ../venv ] || python3 -m venv ../venv
../venv/bin/pip install -q --disable-pip-version-check -r requirements.lock
cat > /srv/usual/environment <<'ENV'
SECRET_KEY=bench-only-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGH
ALLOWED_HOSTS=portal.lab.test
CSRF_TRUSTED_ORIGINS=http://portal.lab.test
BACKSTAY_DATA_DIR=/srv/usual/data
BACKSTAY_STATIC_DIR=/srv/usual/static
BACKSTAY_RELEASE_ID=1.0.0
ENV
set -a; . /srv/usual/environment; set +a
../venv/bin/python manage.py migrate --noinput -v 0
../venv/bin/python manage.py seed --audits 10000 >/dev/null
../venv/bin/python manage.py collectstatic --noinput -v 0
chown -R usual: /srv/usual/data
cat > /etc/systemd/system/usual.service <<'UNIT'
[Service]
Type=notify
User=usual
WorkingDirectory=/srv/usual/code
EnvironmentFile=/srv/usual/environment
RuntimeDirectory=usual
ExecStart=/srv/usual/venv/bin/gunicorn -w 2 --threads 4 -b unix:/run/usual/web.sock --umask 0111 portal.wsgi:application
[Install]
WantedBy=multi-user.target
UNIT
cat > /etc/nginx/sites-available/default <<'SITE'
server {
    listen 80 default_server;
    location /static/ { alias /srv/usual/static/; }
    location /media/ { alias /srv/usual/data/media/; }
    location / {
        proxy_pass http://unix:/run/usual/web.sock;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-Proto https;
    }
}
SITE
systemctl daemon-reload
systemctl enable --now -q usual.service
nginx -t -q && systemctl restart nginx
