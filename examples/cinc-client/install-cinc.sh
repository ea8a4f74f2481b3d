#!/bin/sh
# Install one version of Cinc client, whose package must have the digest named here.
# For Chef Infra Client itself, put the address and digest of Chef's package here, and accept its licence.
set -eu

VERSION=18.6.2
case $(dpkg --print-architecture) in
    amd64) SHA256=311f3f9c19db7d62c9e7a151398853db8d0994e0aeac96189530ee5eb972eb6c ;;
    arm64) SHA256=d3a9190edba47a6946cecd2af010f7c98da02bb56d2a540a93462eb642de8c7f ;;
    *)
        echo "no digest is known for this architecture" >&2
        exit 1
        ;;
esac
FILE=cinc_$VERSION-1_$(dpkg --print-architecture).deb

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl --fail --silent --show-error --location --output "$folder/$FILE" \
    "https://downloads.cinc.sh/files/stable/cinc/$VERSION/debian/12/$FILE"
echo "$SHA256  $folder/$FILE" | sha256sum --check --quiet
dpkg --install "$folder/$FILE"
