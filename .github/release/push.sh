#!/usr/bin/env bash
# Pushes one image for all machines: each by its digest, then under the version an index of them. With --sign, Sigstore
# gets to know who pushed it, and each machine's bill of materials. Needs buildah and skopeo; to sign, cosign.
set -euo pipefail

usage="usage: push.sh [--sign] REGISTRY IMAGE VERSION FOLDER.. (folders with IMAGE.tar and IMAGE.cdx.json, of one machine each)"
sign=
if [ "${1-}" = --sign ]; then sign=yes; shift; fi
[ $# -ge 4 ] || { echo "$usage" >&2; exit 2; }
name=$1/$2 image=$2 version=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)

"${buildah[@]}" manifest create index >/dev/null
for folder in "$@"; do
    machine=$(skopeo inspect --config --format '{{.Architecture}}' "docker-archive:$folder/$image.tar")
    skopeo copy --quiet --digestfile "$work/digest" "docker-archive:$folder/$image.tar" "docker://$name:$version-$machine"
    "${buildah[@]}" manifest add index "docker://$name@$(cat "$work/digest")" >/dev/null
    echo "$name@$(cat "$work/digest") $folder/$image.cdx.json" >>"$work/pushed"
done
"${buildah[@]}" manifest push --quiet --all --format v2s2 --digestfile "$work/digest" index "docker://$name:$version"
digest=$(cat "$work/digest")
echo "$name@$digest"

if [ "$sign" ]; then
    # The index, and with it each machine's image.
    cosign sign --yes --recursive "$name@$digest"
    while read -r one bill; do
        cosign attest --yes --type cyclonedx --predicate "$bill" "$one"
    done <"$work/pushed"
fi
if [ "${GITHUB_OUTPUT-}" ]; then
    printf 'name=%s\ndigest=%s\n' "$name" "$digest" >>"$GITHUB_OUTPUT"
fi
