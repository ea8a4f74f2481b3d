#!/bin/sh
# Install salt-minion from the Salt project's repository, whose key must be the one named here.
set -eu

KEY=10857FFDD3F91EAE577A21D664CBBC8173D76B3F
KEY_URL=https://packages.broadcom.com/artifactory/api/security/keypair/SaltProjectKey/public
REPOSITORY=https://packages.broadcom.com/artifactory/saltproject-deb
KEYRING=/usr/share/keyrings/salt-archive-keyring.gpg

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GNUPGHOME=$folder/gnupg
export GNUPGHOME
mkdir -m 700 "$GNUPGHOME"

curl --fail --silent --show-error --location --output "$folder/key" "$KEY_URL"
gpg --batch --quiet --import "$folder/key"
# Only this one key goes into the keyring, whatever else the file held.
if ! gpg --batch --quiet --list-keys "$KEY" >/dev/null 2>&1; then
    echo "the key at $KEY_URL is not $KEY: not installing anything" >&2
    exit 1
fi
gpg --batch --quiet --export "$KEY" >"$KEYRING"

cat >/etc/apt/sources.list.d/salt.sources <<END
Types: deb
URIs: $REPOSITORY
Suites: stable
Components: main
Signed-By: $KEYRING
END

# Stay on the series with long support.
cat >/etc/apt/preferences.d/salt <<END
Package: salt-*
Pin: version 3006.*
Pin-Priority: 1001
END

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install salt-minion
