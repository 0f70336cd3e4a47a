#!/bin/sh
# Take out of a fresh environment what nightmill never reads, and say no more than that it works without.
#
# Of 500 MB that the server's packages have, this leaves some 200. The bytecode that stays is that of the modules which
# the commands import; a test of the built image runs them (tests/slow/test_image.py).
set -eu
environment=$1
packages=$(echo "$environment"/lib/python3*/site-packages)
cd "$packages"

# Tests, what only compilers and type checkers read, and a former version of an interface.
find . -depth -type d -name tests -exec rm -r {} +
find . -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.pxi' -o -name '*.pyi' -o -name '*.a' \) -delete
rm -r pyarrow/include pyarrow/src pyarrow/_pyarrow_cpp_tests* numpy/f2py numpy/_core/_simd.* numpy/_core/*_tests.* pydantic/v1 sqlalchemy/testing

# Arrow: RPC, stores and data sets of its own (nightmill reads and writes through boto3), copies under three names.
rm pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight* pyarrow/libarrow_s3* pyarrow/_s3fs*
rm pyarrow/_azurefs* pyarrow/_gcsfs* pyarrow/_hdfs* pyarrow/_dataset*
rm pyarrow/libarrow_python.so pyarrow/libarrow_python.so.*.*.*

# Of Amazon's services, all but S3 and what signs requests to it; AVIF; second versions of the same; lexers.
find boto3/data botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} +
rm zstandard/_cffi* PIL/_avif* pillow.libs/libavif*
rm -f rapidfuzz/*_avx2* rapidfuzz/distance/*_avx2*
find pygments/lexers -name '*.py' ! -name '_*' ! -name python.py ! -name special.py -delete

# Symbols that debuggers read; not of the libraries that wheels bring along, which strip would break.
find . -type f -name '*.so*' ! -path './*.libs/*' -exec strip --strip-unneeded {} +
