#!/bin/sh
# Gives Waypost a certificate that certbot or lego has renewed. Install it as root, and replace the name below:
#
#   certbot    sudo install -m 0755 deploy-hook.sh /etc/letsencrypt/renewal-hooks/deploy/waypost
#   lego 5     lego run --deploy-hook /usr/local/bin/waypost-certificate …
#   lego 4     lego run --run-hook …, and lego renew --renew-hook …
#
# With the directory /etc/waypost/tls, the hook copies the certificate there, and Waypost reads it again. Without it, the
# hook restarts the service, and systemd passes the new certificate.
set -eu
name=electrum.example.org
target=/etc/waypost/tls
group=waypost-tls
service=waypost.service

if [ -n "${RENEWED_LINEAGE:-}" ]; then
  # certbot runs the hook for each of its certificates.
  case " ${RENEWED_DOMAINS:-} " in *" $name "*) ;; *) exit 0 ;; esac
  certificate=$RENEWED_LINEAGE/fullchain.pem key=$RENEWED_LINEAGE/privkey.pem
else
  certificate=${LEGO_HOOK_CERT_PATH:-${LEGO_CERT_PATH:?"neither certbot nor lego has set the path of the certificate"}}
  key=${LEGO_HOOK_CERT_KEY_PATH:-${LEGO_CERT_KEY_PATH:?"lego has not set the path of the key"}}
fi

if [ -d "$target" ]; then
  # Each file is replaced at once. While the two do not match, Waypost keeps the previous certificate.
  install -m 0640 -g "$group" "$certificate" "$target/fullchain.pem.new"
  install -m 0640 -g "$group" "$key" "$target/privkey.pem.new"
  mv -f "$target/fullchain.pem.new" "$target/fullchain.pem"
  mv -f "$target/privkey.pem.new" "$target/privkey.pem"
else
  systemctl try-restart "$service"
fi
