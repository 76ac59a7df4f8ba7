#!/usr/bin/env bash
# Install what the tests of the page need (Chromium, npm) where Debian's packages can be installed. Elsewhere these tests say that
# they were skipped.
set -uo pipefail
missing=()
command -v chromium chromium-browser google-chrome > /dev/null || missing+=(chromium)
command -v npm > /dev/null || missing+=(npm)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null \
  && apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null; then
  exit 0
fi
echo "tests/test_web_browser.py will be skipped: ${missing[*]} cannot be installed here" >&2
